"""The batches of a run, which samples of each this process learns from, and those cut into what fits its memory."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.data.batching import Batches
from cotune.data.collate import MediaLoaders
from cotune.data.composing import deal
from cotune.data.passes import Row
from cotune.data.prefetch import Prefetch
from cotune.data.template import Encoded
from cotune.recipe import Recipe, Training
from cotune.training.prepare import passes_of
from cotune.training.processes import Processes
from cotune.training.shown_again import ShownAgain


def make_stream(recipe: Recipe, batches: Batches, loaders: MediaLoaders, processes: Processes) -> Prefetch:
    """Return the batches as a recipe's regulariser needs them, the media of this process's shares loaded ahead."""

    def own(batch: Sequence[Encoded]) -> Sequence[Encoded]:
        return _shares(batch, processes)[processes.rank]

    return Prefetch(ShownAgain.of(recipe, batches), loaders, recipe.data.workers, own)


def own_passes(batch: Sequence[Encoded], settings: Training, processes: Processes) -> tuple[list[list[Row]], int]:
    """Return this process's share of a batch, in passes, and how many passes the process with the most of them has.

    All processes have the same batch, so each knows what the others do. A batch of fewer samples than processes leaves
    some without any.
    """
    passes = [passes_of(share, settings) for share in _shares(batch, processes)]
    return passes[processes.rank], max(map(len, passes))


def _shares(batch: Sequence[Encoded], processes: Processes) -> list[list[Encoded]]:
    """Return the samples of a batch that each process learns from."""
    return deal(batch, processes.size) if processes.size > 1 else [list(batch)]
