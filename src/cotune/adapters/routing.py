"""Routing: which expert answers for which modality, as a table of one row of weights per (site, modality).

`hard`: each modality set owns an expert; the text row is all zero when text stays the base model.
`soft`: a router reads a learned modality token at every site (LaVIN, equation 4). The token attends only to
itself, so its path, and with it the weights, depend on the modality alone: one length-1 pass through the model
per modality gives the whole table, and the main sequence runs plain causal attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cotune.errors import ModelError, nearest
from cotune.messages import TEXT

# Half the logit gap between a modality's own expert and another at the start of `soft` training. With equal
# experts and equal weights the experts receive equal gradients and never part (measured: cosine above 0.998).
_APART = 1.0


class Route:
    """The weights one site uses now: `rows` is [1, experts] for a whole batch or [batch, experts].

    `identity` says that every row is zero, so that the site passes its input on untouched.
    """

    def __init__(self, rows: Tensor, *, identity: bool = False) -> None:
        self.rows, self.identity = rows, identity


class TokenPass(Route):
    """The route during the length-1 pass: each site computes its weights from the token and hands them in."""

    def __init__(self, temperature: float, offsets: Tensor | None) -> None:
        super().__init__(torch.empty(0))
        self.temperature, self.offsets = temperature, offsets
        self.tables: dict[nn.Module, Tensor] = {}

    def weights_from(self, logits: Tensor) -> Tensor:
        """Return softmax((logits + offsets) / temperature) in fp32, [modalities, experts]."""
        logits = logits.float()
        if self.offsets is not None:
            logits = logits + self.offsets
        return (logits / self.temperature).softmax(-1)

    def collect(self, adapter: nn.Module, weights: Tensor) -> None:
        """Keep the weights one site computed."""
        self.tables[adapter] = weights


class Modalities:
    """The modality sets a model knows, in order; the index of a name is its row in every table."""

    def __init__(self, names: Sequence[str]) -> None:
        if not names or len(set(names)) != len(names):
            raise ModelError(f"modalities must be a list of different names, got {list(names)}")
        self.names = tuple(names)

    def index(self, name: str) -> int:
        """Return the row of a modality; raises ModelError with the nearest name for an unknown one."""
        if name not in self.names:
            raise ModelError(f"the model knows no modality '{name}'{nearest(name, self.names)}")
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.names)


def hard_table(modalities: Modalities, text: str) -> Tensor:
    """Return the fixed table [modalities, experts]: a one for each modality's own expert, zeros for a base text row."""
    owners = [name for name in modalities.names if text == "trained" or name != TEXT]
    table = torch.zeros(len(modalities), max(len(owners), 1))
    for expert, name in enumerate(owners):
        table[modalities.index(name), expert] = 1.0
    return table


class ModalityTokens(nn.Module):
    """The learned modality tokens of soft routing, and the offsets that set the experts apart.

    Without offsets (the paper to the letter, `soft-legacy`) the experts do not part in short runs.
    """

    def __init__(self, modalities: Modalities, width: int, *, experts: int, temperature: float, apart: bool) -> None:
        super().__init__()
        self.temperature = temperature
        self.embedding = nn.Parameter(torch.randn(len(modalities), width))
        self.offsets = None
        if apart:
            own = nn.functional.one_hot(torch.arange(len(modalities)) % experts, experts).float()
            self.offsets = nn.Parameter(_APART * temperature * (2 * own - 1))

    def token_pass(self) -> TokenPass:
        """Return a fresh route for the length-1 pass."""
        return TokenPass(self.temperature, self.offsets)
