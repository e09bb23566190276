"""Routing: which expert answers for which modality, as a table of one row of weights per (site, modality).

`hard`: each modality set owns an expert; the text row is all zero when text stays the base model.
`soft`: a router reads a learned modality token at every site (LaVIN, equation 4). The token attends only to
itself, so its path, and with it the weights, depend on the modality alone: one length-1 pass through the model
per modality gives the whole table, and the main sequence runs plain causal attention.
`content`: for encoders, which know no modality token: a router reads each input itself, so there is no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cotune.errors import ModelError, nearest
from cotune.messages import TEXT

# Half the logit gap between a modality's own expert and another at the start of `soft` training. With equal
# experts and equal weights the experts receive equal gradients and never part (measured: cosine above 0.998).
_APART = 1.0


ContentSource = Literal["first", "mean", "each", "first-of-batch"]


class Route:
    """The weights one site uses now: `rows` holds them.

    They are [1, experts] for a whole batch, [batch, experts], or [batch, tokens, experts] where several samples share
    a row. `identity` says that every weight is zero, so that the site passes its input on untouched. `segments`
    [batch, tokens] is there when the site's attention mask must be told which tokens belong together. `batch` is the
    number of rows the site's input must have, None when any will do. `fixed` says that the weights do not depend on
    that input.
    """

    batch: int | None
    fixed = True

    def __init__(self, rows: Tensor, *, identity: bool = False, segments: Tensor | None = None) -> None:
        self.rows, self.identity, self.segments = rows, identity, segments
        self.batch = len(rows) if rows.dim() > 2 or len(rows) > 1 else None

    def weights(self, hidden: Tensor, router: nn.Linear | None) -> Tensor | None:
        """Return the experts' weights for `hidden` [batch, tokens, width]; None where it stays untouched.

        They are [1, experts], [batch, experts] or [batch, tokens, experts], with 1 for a batch or a length that
        shares them.
        """
        return None if self.identity else self.rows


class TokenPass(Route):
    """The route during the length-1 pass: each site computes its weights from the token and leaves them here."""

    fixed = False

    def __init__(self, modalities: int, temperature: float, offsets: Tensor | None) -> None:
        super().__init__(torch.empty(0, 0))
        self.batch, self.temperature, self.offsets = modalities, temperature, offsets
        self.tables: dict[nn.Module, Tensor] = {}

    def weights(self, hidden: Tensor, router: nn.Linear | None) -> Tensor:
        """Return the weights [modalities, experts] of the tokens [modalities, 1, width], and keep them."""
        assert router is not None  # only soft routing runs the pass
        self.tables[router] = router_weights(router, hidden[:, 0], self.temperature, self.offsets)
        return self.tables[router]


class ContentRoute(Route):
    """Each input's weights, read by the site's own router off the input as the site receives it.

    `source` says from where: `first`, the token at position 0 (a class token), `mean`, the mean over all tokens, or
    `each`, every token for itself; no input's weights depend on another input. `first-of-batch` reproduces the
    released LaVIN instead, to score its checkpoints: there the router indexed batch and tokens the wrong way round, so
    that the weights at position p are, for every input, those of token p of the batch's first input. For an input
    alone in its batch that is `each`.
    """

    fixed = False

    def __init__(self, source: ContentSource, temperature: float) -> None:
        super().__init__(torch.empty(1, 0))
        self.source, self.temperature = source, temperature

    def weights(self, hidden: Tensor, router: nn.Linear | None) -> Tensor:
        """Return [batch, experts], per token [batch or 1, tokens, experts], for `hidden` [batch, tokens, width].

        Raises:
            ModelError: when the site's input has no batch dimension to tell the inputs apart.
        """
        assert router is not None  # content routing with one expert has a fixed route
        if hidden.dim() != 3:
            raise ModelError(
                f"content routing reads inputs [batch, tokens, width], this site gets {hidden.dim()}-d ones"
            )
        return router_weights(router, self._read(hidden.to(router.weight.dtype)), self.temperature)

    def _read(self, hidden: Tensor) -> Tensor:
        """Return what the router reads: [batch, width], or per token [batch or 1, tokens, width]."""
        if self.source == "first":
            return hidden[:, 0]
        if self.source == "mean":
            return hidden.mean(1)
        return hidden if self.source == "each" else hidden[:1]


def router_weights(router: nn.Linear, read: Tensor, temperature: float, offsets: Tensor | None = None) -> Tensor:
    """Return softmax((W x + b + offsets) / temperature) [..., experts] for what is read, x [..., width].

    Never in less than fp32 (LaVIN, equation 4).
    """
    logits = functional.linear(read.to(router.weight.dtype), router.weight, router.bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return ((logits if offsets is None else logits + offsets) / temperature).softmax(-1)


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
    # On the CPU also while a model is built on another device: the table decides which code runs.
    table = torch.zeros(len(modalities), max(len(owners), 1), device="cpu")
    for expert, name in enumerate(owners):
        table[modalities.index(name), expert] = 1.0
    return table


class ModalityTokens(nn.Module):
    """The learned modality tokens of soft routing, and what sets the experts apart at the start.

    Without offsets (the paper to the letter, `soft-legacy`) the experts do not part in short runs.
    """

    def __init__(self, modalities: Modalities, width: int, *, experts: int, temperature: float, apart: bool) -> None:
        super().__init__()
        self.experts, self.temperature, self.apart = experts, temperature, apart
        self.embedding = nn.Parameter(torch.randn(len(modalities), width))

    @property
    def offsets(self) -> Tensor | None:
        """What is added to the routers' logits [modalities, experts]: a bonus for each modality's own expert.

        Fixed, so that there are as many parameters as in the paper: the routers learn on top of it.
        """
        if not self.apart:
            return None
        own = torch.arange(len(self.embedding), device=self.embedding.device) % self.experts
        return _APART * self.temperature * (2 * functional.one_hot(own, self.experts) - 1)

    def token_pass(self) -> TokenPass:
        """Return a fresh route for the length-1 pass."""
        return TokenPass(len(self.embedding), self.temperature, self.offsets)
