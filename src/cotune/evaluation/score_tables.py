"""Scores in print: the table people know a benchmark by, and every score there is; on screen and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cotune.evaluation.prediction import Scores
from cotune.evaluation.task import Table
from cotune.evaluation.tasks import TASKS

_POINTS = ("perception", "cognition")  # sums of MME's points
ABSENT = "-"
MAIN = " (main)"


@dataclass(frozen=True)
class Printed:
    """A table of texts; its first column names the rows, its `notes` stand below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """Return the table as Markdown, ended by a line break."""
        lines = [[_cell(cell) for cell in row] for row in (self.columns, *self.rows)]
        ruler = ["---", *("---:" for _ in self.columns[1:])]
        grid = "".join(f"| {' | '.join(row)} |\n" for row in (lines[0], ruler, *lines[1:]))
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"{self.title}\n\n{grid}" + (f"\n{notes}" if notes else "")


def printed_scores(task: str, scores: Scores) -> list[Printed]:
    """Return the task's own table, where it has one, and the scores that are not in it, the main score first."""
    known = TASKS[task]
    tables = [] if known.table is None else [_laid_out(known.table, scores)]
    shown = set() if known.table is None else {name for _, names in known.table.rows for name in names}
    names = [known.main] * (known.main in scores) + [name for name in scores if name not in {*shown, known.main}]
    rows = [[name + (MAIN if name == known.main else ""), shown_score(name, scores[name])] for name in names]
    return [*tables, Printed("Scores", ["score", "value"], rows)]


def markdown_report(title: str, tables: Sequence[Printed], about: Mapping[str, object]) -> str:
    """Return a page of tables with what they were made of."""
    lines = "".join(f"- {key}: {value}\n" for key, value in about.items())
    return "\n".join([f"# {title}\n", lines, *(table.markdown() for table in tables)])


def _laid_out(layout: Table, scores: Scores) -> Printed:
    """Return a layout with its scores in percent, without the rows and columns that have none."""
    rows = [(title, names) for title, names in layout.rows if any(scores.get(name) is not None for name in names)]
    kept = [
        place for place in range(len(layout.columns)) if any(scores.get(names[place]) is not None for _, names in rows)
    ]
    cells = [[title, *(_percent(scores.get(names[place])) for place in kept)] for title, names in rows]
    return Printed(layout.title, ["", *(layout.columns[place] for place in kept)], cells)


def is_share(name: str) -> bool:
    """Return whether a score lies between 0 and 1: all do but sums of points, and CIDEr (0 to 10)."""
    return name not in (*_POINTS, "CIDEr")


def shown_score(name: str, value: float | None) -> str:
    """Return a score as it is printed: sums of points to one place, others to four."""
    if value is None:
        return ABSENT
    return f"{value:.1f}" if name in _POINTS else f"{value:.4f}"


def shown_share(name: str, value: float | None) -> str:
    """Return a score as tables of a few runs print it: shares in percent to one place, others as `shown_score`."""
    return f"{100 * value:.1f}" if is_share(name) and value is not None else shown_score(name, value)


def share_title(name: str) -> str:
    """Return a score's name as the title of a column that `shown_share` fills."""
    return name + (", %" if is_share(name) else "")


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ") or " "
