"""What papers report on a task, to stand beside one's own numbers and marked as theirs.

Other models, other data, other machines: the rows say what was reported, not what is to be beaten by a tiny model.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cotune.plain_yaml import load_yaml

COSTS = "costs"


class PaperRow(BaseModel):
    """One row of a paper's table: the scores by cotune's names, where they stand, and how they were seen.

    `seen` is `paper` (read in it), `code` (its authors wrote it beside their code) or `quoted` (read elsewhere).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    row: str
    scores: dict[str, float]
    unit: Literal["percent", "points", "as named"] = "percent"
    source: str
    seen: Literal["paper", "code", "quoted"]

    @property
    def label(self) -> str:
        """The row's name, marked as the paper's."""
        return f"paper: {self.row}"

    def value(self, metric: str) -> float | None:
        """Return a metric as cotune's tasks give it (shares, not percent), None where the row has none."""
        found = self.scores.get(metric)
        return found if found is None or self.unit != "percent" else found / 100


@cache
def all_rows() -> tuple[PaperRow, ...]:
    """Return every row of the data file."""
    text = Path(__file__).with_name("paper_numbers.yaml").read_text(encoding="utf-8")
    return tuple(PaperRow.model_validate(row) for row in load_yaml(text)["rows"])


def paper_rows(task: str) -> tuple[PaperRow, ...]:
    """Return what papers report on a task; nothing for a task that no paper of ours has."""
    return tuple(row for row in all_rows() if row.task == task)


def sources(rows: Iterable[PaperRow]) -> list[str]:
    """Return where some rows stand and how they were seen, a line for each source."""
    how = {
        "paper": "read in the paper",
        "code": "written by its authors",
        "quoted": "as quoted by others, not verified",
    }
    return list(dict.fromkeys(f"{row.source} ({how[row.seen]})" for row in rows))
