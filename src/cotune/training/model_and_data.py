"""A model and its data, ready to train or to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console

from cotune.data.collate import MediaLoaders
from cotune.evaluation.answers_folder import AnswersFolder, Key, sample_key
from cotune.evaluation.held_out_loss import LossSums, loss_sums
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.runner import answer, answered_before
from cotune.evaluation.tasks import Scores, score, with_verdicts
from cotune.messages import Sample
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import counted_progress, progress
from cotune.recipe import Recipe
from cotune.training.prepare import Samples
from cotune.training.processes import ALONE, Processes
from cotune.training.sharding import is_sharded

_QUICK = 2.0  # seconds; what takes longer shows a bar


@dataclass
class Prepared:
    """A model and its data, ready to train or to answer."""

    recipe: Recipe
    model: MultimodalLM
    samples: Samples
    loaders: MediaLoaders
    console: Console
    processes: Processes = ALONE

    def evaluate(
        self,
        samples: Sequence[Sample],
        what: str,
        batch_size: int | None = None,
        *,
        folder: AnswersFolder | None = None,
        option_prefix: str | None = None,
    ) -> tuple[Scores, list[Prediction]]:
        """Return scores and predictions of the model on samples; every process answers its share of them.

        What a `folder` holds already is not answered again; new answers are written there batch by batch.
        """
        settings = self.recipe.evaluation
        kept = self._kept(samples, folder)
        asked = [sample for sample in samples if sample_key(sample) not in kept]
        own = self._own(asked)
        if len(own) < len(asked):
            what = f"{what}, 1 of {self.processes.size} shares"
        with progress(self.console, what, len(own), "questions") as advance, self._keeping(folder) as keep:
            predictions = answer(
                self.model,
                own,
                loaders=self.loaders,
                batch_size=batch_size or settings.batch_size,
                max_new_tokens=settings.max_new_tokens,
                advance=advance,
                keep=lambda found: keep(with_verdicts(settings.task, found)),
                option_prefix=option_prefix,
            )
        if not self._all_together:
            predictions = self.processes.joined(predictions)
        new = iter(predictions)
        found = [
            answered_before(sample, kept[key]) if (key := sample_key(sample)) in kept else next(new)
            for sample in samples
        ]
        with counted_progress(self.console, "Scoring", "steps", after=_QUICK) as count:
            scores = score(settings.task, found, count)
        return scores, with_verdicts(settings.task, found)

    def _kept(self, samples: Sequence[Sample], folder: AnswersFolder | None) -> dict[Key, Prediction]:
        """Return the answers a folder holds, which all processes see alike."""
        kept = {} if folder is None else folder.kept()
        if folder is not None:
            self.processes.check_equal(f"the number of answers in {folder.path}", len(kept))
        if kept:
            self.console.print(f"Going on: {len(kept):,} of {len(samples):,} questions are answered already")
        return kept

    @contextmanager
    def _keeping(self, folder: AnswersFolder | None) -> Iterator[Callable[[Sequence[Prediction]], None]]:
        """Open what new answers are written to; a sharded model's are the same everywhere, and written once."""
        if folder is None or (self._all_together and not self.processes.main):
            yield lambda predictions: None
        else:
            with folder.appending(self.processes.rank) as keep:
                yield keep

    def held_out_loss(self, samples: Sequence[Sample]) -> float:
        """Return the model's loss on samples, in nats per answer token; every process takes its share of them."""
        size = self.recipe.evaluation.batch_size
        sums = loss_sums(self.model, self._own(samples), loaders=self.loaders, batch_size=size)
        if not self._all_together:
            total = torch.tensor(sums, dtype=torch.float64, device=self.processes.device)
            sums = LossSums(*self.processes.sum(total).tolist())
        return sums.mean

    @property
    def _all_together(self) -> bool:
        """Whether every process must compute everything: a sharded model runs on all of them or none."""
        return is_sharded(self.recipe, self.processes)

    def _own(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        return samples if self._all_together else self.processes.share(samples)
