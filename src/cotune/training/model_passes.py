"""What the model is run for in a step: the gradient of a batch, the loss of one sample, the predictions of a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cotune.coordination.coordinator import Coordinator
from cotune.coordination.predictions import Predictions
from cotune.data.collate import Batch, MediaLoaders, collate_rows
from cotune.data.passes import Row
from cotune.data.template import Encoded
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Recipe
from cotune.training.chunked_loss import pass_loss
from cotune.training.kept_predictions import KeptPredictions, has_dropout
from cotune.training.precision import Precision
from cotune.training.processes import Processes
from cotune.training.sharding import is_sharded
from cotune.training.shares import own_passes

_PROBE = 2  # samples, where the recipe does not say


class ModelPasses:
    """Runs a model on batches: cut into the passes of this process, in the recipe's precision."""

    def __init__(
        self,
        recipe: Recipe,
        model: MultimodalLM,
        loaders: MediaLoaders,
        precision: Precision,
        coordinator: Coordinator,
        processes: Processes,
    ) -> None:
        self.recipe, self.model, self.loaders, self.precision = recipe, model, loaders, precision
        self.coordinator, self.processes = coordinator, processes
        self.sharded = is_sharded(recipe, processes)
        self._kept = KeptPredictions()

    def backward(self, encoded: Sequence[Encoded]) -> tuple[float, int]:
        """Add the gradient of this process's share of a batch's mean loss; return that share and its padding.

        The mean is over the tokens that carry loss in the whole batch, so the gradient is the same however the batch
        is cut into processes and micro-batches.
        """
        count = sum(item.answer_tokens for item in encoded)
        passes, most = own_passes(encoded, self.recipe.training, self.processes)
        self._kept.begin(self._probed(encoded) if self._keeps_predictions else [])
        value, padding = 0.0, 0
        for rows in passes:
            batch = self.collated(rows)
            padding += batch.tokens.numel() - sum(batch.lengths)
            value += self._backward_one(batch, count, [sample for row in rows for sample in row])
        if self.sharded:
            again = passes[-1] if passes else [[encoded[0]]]
            for _ in range(most - len(passes)):
                self._backward_one(self.collated(again), count, [], share=0.0)
        return value, padding

    def _backward_one(self, batch: Batch, count: int, part: Sequence[Encoded], *, share: float = 1.0) -> float:
        """Add the gradient of a micro-batch's summed loss over `count` tokens, times `share`, and return that loss.

        `part` are its samples, by which the regulariser knows them again. A share of 0 does the work for nothing: for
        processes that must run the layers as often as the others.
        """

        def keep(hidden: Tensor, targets: Tensor) -> None:
            self._kept.keep(hidden, targets, batch, part)

        with self.precision.autocast():
            loss = share * pass_loss(self.model, batch, self._collector(batch, part), keep) / count
        if loss.requires_grad:  # a part may hold nothing that passes through what learns
            self.precision.backward(loss)
        return loss.item()

    def _collector(self, batch: Batch, encoded: Sequence[Encoded]) -> Callable[[Tensor], None] | None:
        """Return what hands a part's logits to the regulariser, if there is one; samples of all sources by one name."""
        if not encoded or not self.coordinator.collects:
            return None
        of_samples = batch.samples_of_loss()
        names = [f"{item.sample.origin} {item.sample.id}" for item in encoded]
        return lambda logits: self.coordinator.collect(Predictions(logits, None, of_samples.to(logits.device)), names)

    def loss_of(self, item: Encoded) -> float:
        """Return the loss of one sample by itself, in nats; no gradient, and no random number is used up."""
        batch = self.collated([[item]])
        devices = [batch.tokens.device] if batch.tokens.is_cuda else []
        with torch.no_grad(), self.precision.autocast(), torch.random.fork_rng(devices):
            logits, targets = self.model(batch)
            return functional.cross_entropy(logits, targets, reduction="sum").item()

    @property
    def _keeps_predictions(self) -> bool:
        """Whether training predicts for the probe what the probe would: it has all samples, and drops nothing."""
        return self.coordinator.due and self.processes.size == 1 and not has_dropout(self.model)

    def _probed(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Return this process's part of the probe's samples: the first ones of the batch."""
        size = self.recipe.coordination.probe or _PROBE
        if self.sharded:  # all processes run the layers equally often
            size = max(size, self.processes.size)
        return self.processes.share(encoded[:size])

    def probes(self, encoded: Sequence[Encoded]) -> list[Batch]:
        """Return this process's part of the probe as one micro-batch, none for some processes where samples are few."""
        own = self._probed(encoded)
        return [self.collated([[sample] for sample in own])] if own else []

    def bases(self, encoded: Sequence[Encoded]) -> list[Predictions] | None:
        """Return the probe's predictions before the step, out of the backward pass just run; None where it has none."""
        with self.precision.autocast():
            found = self._kept.take(self._probed(encoded), self.model)
        return None if found is None else [found]

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, targets and the sample of every token of a batch that carries loss."""
        logits, targets = self.model(batch)
        return logits, targets, batch.samples_of_loss()

    def collated(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one batch on the model's device."""
        return collate_rows(rows, self.model.template.filler, self.loaders).to(self.model.device)
