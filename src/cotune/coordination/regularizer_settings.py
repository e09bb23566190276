"""What the regulariser rewards, how much, and from which reference; off by default."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cotune.errors import RegularizerError, nearest

# The target change follows the running average of the change itself.
AUTOMATIC_TARGET = 3.0

REFERENCES = {
    "last_epoch": "what was predicted for the sample when it was last seen, however long ago",
    "repeat": "the step before, which took the same batch (see `twice`)",
    "accum": "the step before, one micro-batch of which is taken again (see `with_carried`)",
    "probe": "the predictions before a counterfactual step, as in the paper (see `look_ahead_gradients`)",
}

DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2,
}


@dataclass(frozen=True)
class Form:
    """A reward as a function of the change D and the target change c, and its slope in D."""

    divergence: str
    reward: Callable[[float, float], float]
    slope: Callable[[float, float], float]


FORMS = {
    # Stays below c and D, and lets go once the predictions have changed by about c.
    "saturating": Form("kl", lambda d, c: min(-c * math.expm1(-d / c), d), lambda d, c: math.exp(-d / c)),
    # Bounded by ln 2; its curvature is a quarter of KL's, which alone does not prevent divergence.
    "js": Form("js", lambda d, c: d, lambda d, c: 1.0),
    # The paper's own (CoMMIT, arXiv 2407.20454, equations 7 and 8).
    "unbounded": Form("kl", lambda d, c: d, lambda d, c: 1.0),
}


@dataclass(frozen=True)
class RegularizerSettings:
    """How predictions that change are rewarded; raises RegularizerError for a value out of range.

    The loss gains -weight * reward(D), where D is how far predictions moved from the `reference`. `form`: `saturating`
    c (1 - exp(-D/c)), `js`, or `unbounded` D. `target`: c in nats per token; None is three times D's running average.
    `cap`: the largest norm beside the task's gradient, by component; without it (None) large weights diverge, and the
    stable range, 1 / (rate * largest curvature), is not known. `project` drops it where it points against the task.
    `kept`: tokens stored of a prediction. It is off for `warmup_steps`, then `decay`s to zero at `total_steps` (None:
    it does not). `by_balance` multiplies each component's by the rule's multiplier, as the paper's rates do.
    """

    weight: float = 0.0
    form: str = "saturating"
    reference: str = "last_epoch"
    target: float | None = None
    cap: float | None = 0.1
    project: bool = False
    kept: int = 64
    warmup_steps: int = 0
    total_steps: int | None = None
    decay: str = "linear"
    by_balance: bool = False

    def __post_init__(self) -> None:
        for key, table in (("form", FORMS), ("reference", REFERENCES), ("decay", DECAYS)):
            name = getattr(self, key)
            if name not in table:
                raise RegularizerError(f"regularizer: no {key} '{name}'{nearest(name, list(table))}")
        ranges = {
            "weight": (0 <= self.weight < math.inf, "at least 0"),
            "target": (self.target is None or self.target > 0, "above 0, or None"),
            "cap": (self.cap is None or 0 < self.cap < 1, "between 0 and 1, or None"),
            "kept": (self.kept >= 1, "at least 1"),
            "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
            "total_steps": (self.total_steps is None or self.total_steps > self.warmup_steps, "above warmup_steps"),
        }
        wrong = [f"{key}={getattr(self, key)} (must be {what})" for key, (fits, what) in ranges.items() if not fits]
        if wrong:
            raise RegularizerError(f"regularizer: out of range: {', '.join(wrong)}")

    def weight_at(self, step: int) -> float:
        """Return the weight at a step, counted from 1."""
        if step <= self.warmup_steps:
            return 0.0
        if self.total_steps is None:
            return self.weight
        progress = (step - 1 - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.weight * DECAYS[self.decay](min(1.0, progress))
