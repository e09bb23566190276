"""What a study keeps of a finished run: its held-out losses over steps and seconds, its score, and its flags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cotune.run_folder import RunFolder
from cotune.studies.one_run import diverged
from cotune.trace import Row, read_trace


@dataclass(frozen=True)
class Point:
    """The held-out loss after a step; `seconds` are those of the steps so far, measuring included, evaluation not."""

    step: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Outcome:
    """One run. `flags` are the shares of its measurements at which the diagnosis spoke, `log_kappa` is their mean.

    `measuring` is the share of the steps' seconds that went into measuring kappa.
    """

    curve: tuple[Point, ...] = ()
    score: float | None = None
    flags: Mapping[str, float] = field(default_factory=dict)
    log_kappa: float | None = None
    measuring: float = 0.0
    diverged: bool = False

    @property
    def loss(self) -> float:
        """The held-out loss at the end; infinite for a run that diverged."""
        if self.diverged or not self.curve or not math.isfinite(self.curve[-1].loss):
            return math.inf
        return self.curve[-1].loss

    def first_at(self, loss: float) -> Point | None:
        """Return the first point at which a loss is reached, None when it never is."""
        return next((point for point in self.curve if point.loss <= loss), None) if math.isfinite(loss) else None


def read_outcome(run: RunFolder) -> Outcome:
    """Return the outcome of a run that is over; raises RunFolderError when it is not."""
    rows = list(read_trace(run.trace)) if run.trace.exists() else []
    kappas = [row["balance"]["log_kappa"] for row in rows if "balance" in row]
    usable = [kappa for kappa in kappas if math.isfinite(kappa)]
    over = diverged(run)
    result = {} if over else run.read_result()
    return Outcome(
        curve=_curve(rows),
        score=_score(rows),
        flags=result.get("coordination", {}).get("flagged", {}),
        log_kappa=sum(usable) / len(usable) if usable else None,
        measuring=_measuring(rows),
        diverged=over,
    )


def _curve(rows: list[Row]) -> tuple[Point, ...]:
    """Return the held-out losses; one of a step that was recorded twice counts once, the later one."""
    seconds, points = 0.0, dict[int, Point]()
    for row in rows:
        if row["event"] == "step":
            seconds += row["step_seconds"]
        elif row["event"] == "held_out":
            points[row["step"]] = Point(row["step"], seconds, row["loss"])
    return tuple(points.values())


def _score(rows: list[Row]) -> float | None:
    """Return the task's main score on the test set, or its first one where it has none of that name."""
    test: Row = next((row for row in reversed(rows) if row["event"] == "test"), {})
    scores: dict[str, Any] = test.get("scores", {})
    known = [value for value in scores.values() if value is not None]
    value = scores.get(test.get("main", "accuracy"))  # not named in the traces of an older cotune
    return value if value is not None else next(iter(known), None)


def _measuring(rows: list[Row]) -> float:
    steps = [row for row in rows if row["event"] == "step"]
    total = sum(row["step_seconds"] for row in steps)
    probes = sum(row["balance"]["probe_seconds"] for row in steps if "balance" in row)
    return float(probes / total) if total else 0.0
