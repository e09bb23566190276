"""One's own scores above what papers report on the same task, each row marked with where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cotune.evaluation.paper_numbers import PaperRow, paper_rows, sources
from cotune.evaluation.prediction import Scores
from cotune.evaluation.score_tables import ABSENT, Printed
from cotune.evaluation.tasks import TASKS

OWN = "this run"
_WIDE = 100  # characters
_FEW = 4  # columns that fit any terminal


def beside_papers(task: str, scores: Scores, questions: int) -> list[Printed]:
    """Return a table of a run's scores and the papers' rows, in the papers' unit; none where no paper has the task.

    `questions` is how many were asked: papers ask all of a benchmark.
    """
    rows = paper_rows(task)
    names = [name for name in scores if any(name in row.scores for row in rows)]
    shown = [row for row in rows if any(name in row.scores for name in names)]
    if not shown:
        return []
    lines = sources(shown)
    percent = shown[0].unit == "percent"
    own = [f"{OWN} ({questions:,} questions)", *(_own(scores[name], percent) for name in names)]
    notes = [f"[{number}] {line}; other models and data" for number, line in enumerate(lines, start=1)]
    title = f"Beside what papers report, {'percent' if percent else 'points'}"
    return [Printed(title, ["", *names], [own, *(_reported(row, names, lines) for row in shown)], notes)]


def narrowed(table: Printed, task: str, width: int) -> Printed:
    """Return a table that fits a terminal that wide: with the scores models are compared by, where all do not fit."""
    if width >= _WIDE or len(table.columns) <= _FEW:
        return table
    kept = [0, *(place for place, name in enumerate(table.columns) if name in TASKS[task].headline)]
    rows = [[row[place] for place in kept] for row in table.rows]
    notes = [*table.notes, f"Left out for the width of this terminal: {len(table.columns) - len(kept)} columns"]
    return replace(table, columns=[table.columns[place] for place in kept], rows=rows, notes=notes)


def _own(value: float | None, percent: bool) -> str:
    if value is None:
        return ABSENT
    return f"{100 * value:.2f}" if percent else f"{value:.1f}"


def _reported(row: PaperRow, names: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Return a paper's row, with as many digits as the paper gives; `lines` are the sources by number."""
    mark = lines.index(sources([row])[0]) + 1
    digits = max(len(str(value).partition(".")[2]) for value in row.scores.values())
    cells = [f"{row.scores[name]:.{digits}f}" if name in row.scores else "" for name in names]
    return [f"{row.label} [{mark}]", *cells]
