"""The part of some batches that takes the most memory, by which a step's memory is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cotune.data.passes import Row, row_length
from cotune.data.template import Encoded
from cotune.recipe import Recipe, Training
from cotune.recipe.reading import parse_recipe
from cotune.training.estimate import Estimate, estimate
from cotune.training.processes import Processes
from cotune.training.shares import own_passes


@dataclass(frozen=True)
class LargestPass:
    """What runs through the model at once: rows, tokens of a row with its padding, and how many of them carry loss."""

    rows: int
    tokens: int
    answer_tokens: int
    longest: Encoded


def largest_pass(batches: Sequence[Sequence[Encoded]], settings: Training, processes: Processes) -> LargestPass | None:
    """Return the largest pass of this process's shares of some batches; None where it has no sample."""
    passes = [rows for batch in batches for rows in own_passes(batch, settings, processes)[0]]
    if not passes:
        return None
    rows = max(passes, key=_padded)
    longest = max((sample for row in rows for sample in row), key=len)
    answers = sum(sample.answer_tokens for row in rows for sample in row)
    return LargestPass(len(rows), max(map(row_length, rows)), -(-answers // len(rows)), longest)


def estimate_pass(recipe: Recipe, found: LargestPass) -> Estimate:
    """Return the estimate of a recipe for a pass of its training.

    Raises:
        ModelError: see `cotune.training.estimate.estimate`.
    """
    recipe = parse_recipe(recipe.model_dump(mode="json"), [f"training.micro_batch_size={found.rows}"])
    return estimate(recipe, tokens=found.tokens, answer_tokens=found.answer_tokens)


def _padded(rows: Sequence[Row]) -> int:
    return len(rows) * max(map(row_length, rows))
