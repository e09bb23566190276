"""What a task is: its scores, the form of its data, and how its numbers are laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cotune.evaluation.prediction import Prediction, Scores

# Told how much is done of how much.
Count = Callable[[int, int], None]


@dataclass(frozen=True)
class Table:
    """Scores laid out as people print them: of each row its title and the names of its scores, one for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Task:
    """How the answers of a benchmark are scored, and what its official files are.

    - `scores` makes scores of predictions; `credit` says what one of them is worth, 0 to 1, where not the equal text is
      right (at half a point it counts as right).
    - `reader` with its `reader_options` reads the data; `files` are the patterns, below the folder a user names, of
      what is scored: the first one that finds something is taken.
    - `option_prefix` is the text that stands in front of the letter in an answer to a question with choices; None where
      there are none.
    - `max_new_tokens` is the longest answer, where no recipe says so; `table` is the layout of its scores in print.
    - `headline` names the scores that models are compared by, the main one first.
    - `scores` of a task that `counts` take a second argument, which is told how much is done of how much.
    """

    scores: Callable[..., Scores]
    about: str
    credit: Callable[[Prediction], float] | None = None
    reader: str | None = None
    reader_options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    option_prefix: str | None = None
    max_new_tokens: int = 16
    table: Table | None = None
    headline: tuple[str, ...] = ("accuracy",)
    counts: bool = False

    @property
    def main(self) -> str:
        """The name of the score that models are compared by first."""
        return self.headline[0]
