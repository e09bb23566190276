"""What training itself predicts for the probe's samples: the forward before the step, which then need not be run.

The last hidden states are kept, not logits: those are made of them where a measurement needs them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cotune.coordination.predictions import Predictions
from cotune.data.collate import Batch
from cotune.data.template import Encoded
from cotune.model.multimodal_lm import MultimodalLM


class KeptPredictions:
    """Keeps the last hidden states of chosen samples, out of whichever passes of a step they are in."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor] | None] = {}  # hidden states and targets, by sample

    def begin(self, samples: Sequence[Encoded]) -> None:
        """Forget what was kept; keep these samples from now on."""
        self._kept = {id(sample): None for sample in samples}

    def keep(self, hidden: Tensor, targets: Tensor, batch: Batch, samples: Sequence[Encoded]) -> None:
        """Keep the chosen ones of a pass, given all its samples in the order of its rows.

        `hidden` is [loss tokens, width], `targets` [loss tokens].
        """
        chosen = {number: id(sample) for number, sample in enumerate(samples) if id(sample) in self._kept}
        if not chosen:
            return
        of_samples = batch.samples_of_loss()
        for number, name in chosen.items():
            own = of_samples == number
            self._kept[name] = hidden.detach()[own], targets[own]

    def take(self, samples: Sequence[Encoded], model: MultimodalLM) -> Predictions | None:
        """Return the predictions of samples, in the order given, and forget them; None unless all were kept."""
        found = [self._kept.get(id(sample)) for sample in samples]
        self._kept = {}
        kept = [pair for pair in found if pair is not None]
        if not kept or len(kept) < len(samples):
            return None
        hidden, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
        lengths = torch.tensor([len(own) for _, own in kept])
        rows = torch.arange(len(kept)).repeat_interleave(lengths).to(hidden.device)
        with torch.no_grad():
            return Predictions(model.logits(hidden), targets, rows)


def has_dropout(model: nn.Module) -> bool:
    """Return whether a layer draws at random what it drops, as things stand: predictions are then no one's but its."""
    return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in model.modules())
