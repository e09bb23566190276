"""How long a run takes and what it costs: from a few real steps of it, or from its operations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

from rich.console import Console

from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.training.estimate import Estimate
from cotune.training.largest_pass import largest_pass
from cotune.training.loop import TrainingLoop
from cotune.training.peak_memory import peak_memory_bytes
from cotune.training.prepare import make_batches
from cotune.training.run import prepare_training
from cotune.training.startup import coming_batches

PROBE_STEPS = 3


@dataclass(frozen=True)
class Duration:
    """Seconds of a step and hours of all steps; encoding media once, validation and scoring come on top.

    `memory_bytes` is the peak that a probe saw, of the whole process on a CPU; `tokens` and `answer_tokens` are those
    of a row of the largest part it was about to run through the model.
    """

    source: Literal["probe", "tflops"]
    step_seconds: float
    hours: float
    price_per_hour: float | None = None
    memory_bytes: int | None = None
    tokens: int | None = None
    answer_tokens: int | None = None

    @property
    def cost(self) -> float | None:
        """The price of all steps, in the currency of the hour's."""
        return None if self.price_per_hour is None else self.hours * self.price_per_hour


def probe(recipe: Recipe, console: Console, price_per_hour: float | None = None) -> Duration:
    """Take three real steps of a recipe, keep nothing of them, and return what all of its steps would take here.

    The first step warms up and does not count.

    Raises:
        CotuneError: for whatever would keep the recipe from being trained.
    """
    prepared = prepare_training(recipe, console)
    batches = make_batches(recipe, prepared.samples, prepared.model)
    with TemporaryDirectory() as folder:
        loop = TrainingLoop(recipe, prepared.model, batches, prepared.loaders, RunFolder(Path(folder)), console)
        largest = largest_pass(coming_batches(batches), recipe.training, prepared.processes)
        seconds = median(loop.try_steps(PROBE_STEPS)[1:])
    hours = seconds * recipe.training.steps / 3600
    peak = peak_memory_bytes()
    tokens, answer_tokens = (None, None) if largest is None else (largest.tokens, largest.answer_tokens)
    return Duration("probe", seconds, hours, price_per_hour, peak, tokens, answer_tokens)


def from_operations(found: Estimate, tflops: float, price_per_hour: float | None = None) -> Duration | None:
    """Return what all steps take at `tflops` * 10^12 operations a second; None where these are not counted."""
    if found.operations is None:
        return None
    hours = found.operations.hours(tflops)
    return Duration("tflops", hours * 3600 / found.assumed.steps, hours, price_per_hour)
