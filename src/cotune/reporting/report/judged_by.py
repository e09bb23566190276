"""What a run is judged by: the scores of its task, the main one first, its own and its baselines'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.evaluation.score_tables import is_share, shown_share
from cotune.evaluation.tasks import TASKS
from cotune.reporting.report.record import RunRecord

# What runs were judged by before their result named the task.
_BEFORE = ("accuracy", "open_accuracy", "yes_no_accuracy")


def judged_by(record: RunRecord) -> tuple[str, ...]:
    """Return the names of the scores that this run is compared by, the main one first."""
    task = record.result.get("task") or record.setting("evaluation", "task")
    known = TASKS.get(str(task))
    return _BEFORE if known is None or "main_score" not in record.result else known.headline


def main_score(record: RunRecord) -> float | None:
    """Return the main score on the test set; None for a run that was not scored."""
    return number(record.result, judged_by(record)[0])


def baseline_scores(record: RunRecord) -> Mapping[str, Any]:
    """Return the scores of the baselines by name; None for one that was not run."""
    found = record.result.get("baselines")
    return found if isinstance(found, Mapping) else {}


def with_unit(scores: Any, name: str) -> str:
    """Return a score as a sentence names it: a share with its percent sign."""
    return shown(scores, name) + ("%" if is_share(name) else "")


def number(scores: Any, name: str) -> float | None:
    """Return a score as a number; None where there is none."""
    value = scores.get(name) if isinstance(scores, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def shown(scores: Any, name: str) -> str:
    """Return a score as it is printed: shares in percent."""
    return shown_share(name, number(scores, name))


def spoken(name: str) -> str:
    """Return the name of a score in words."""
    return name.replace("_", " ")
