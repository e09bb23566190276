"""Balance: what one optimiser step of each side did to the predictions, and the ratio of the two (CoMMIT's kappa).

kappa = D(p00, p01) / D(p00, p10), both from the state before the step (arXiv 2407.20454, equation 3): p00 are the
predictions before it, p01 those with the language side's step only, p10 those with the feature side's step only. Its
logarithm is kept: averages of the ratio itself are biased upwards, and its logarithm only changes sign with the sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cotune.coordination.components import FEATURES, LANGUAGE
from cotune.coordination.totals import BASE, BOTH, Totals

# Of the threshold: what is added to both divergences, so that rounding makes no huge ratio of a side at rest.
_EPSILON = 1e-3


@dataclass(frozen=True)
class Balance:
    """One measurement of the balance.

    `log_kappa` is positive when the language side's step changed the predictions more; infinite when one side did not
    move at all, not a number when the measurement was rejected (`reason` says why). Parts are `features`, `language`,
    components of their own, single components where asked for. `divergence` is that of the step as it was taken, by
    part; `losses` are the probe's mean losses before the step (`base`) and after each part's step alone, which is taken
    `amplification` times there; `rounding` is what a step far too short to count did (None in 32 bits). `interaction`
    is the cosine of the two sides' steps in the Fisher metric: positive when they change the predictions in the same
    direction.
    """

    log_kappa: float
    divergence: Mapping[str, float]
    losses: Mapping[str, float]
    interaction: float | None = None
    exponent: int = 2
    amplification: Mapping[str, float] = field(default_factory=dict)
    rounding: float | None = None
    reason: str | None = None
    tokens: int = 0
    forwards: int = 0
    seconds: float = 0.0

    @property
    def rejected(self) -> bool:
        """Whether the measurement says nothing."""
        return self.reason is not None

    @property
    def loss_changes(self) -> dict[str, float]:
        """What each part's step alone did to the probe's loss, to first order where the step was amplified."""
        return {
            name: (loss - self.losses[BASE]) / self.amplification.get(name, 1.0)
            for name, loss in self.losses.items()
            if name != BASE
        }

    def shares(self) -> dict[str, float]:
        """Return each part's share of the change, D^(1/p) over their sum: one number of many parts' steps."""
        sizes = {name: value ** (1 / self.exponent) for name, value in self.divergence.items() if name != BOTH}
        total = sum(sizes.values())
        return {name: size / total for name, size in sizes.items()} if total else {}

    def record(self) -> dict[str, Any]:
        """Return what a trace keeps of it."""
        return {
            "log_kappa": self.log_kappa,
            "divergence": dict(self.divergence),
            "losses": dict(self.losses),
            "interaction": self.interaction,
            "amplification": dict(self.amplification),
            "rounding": self.rounding,
            "reason": self.reason,
            "tokens": self.tokens,
            "forwards": self.forwards,
            "probe_seconds": round(self.seconds, 4),
        }


def balance_of(
    totals: Totals,
    *,
    exponent: int,
    amplification: Mapping[str, float],
    floor: float,
    forwards: int = 0,
    seconds: float = 0.0,
    failed: str | None = None,
) -> Balance:
    """Return the balance of totals that are complete: all micro-batches and ranks are in.

    A step taken `a` times changes the predictions `a ** exponent` times as much, which is taken out again. Both sides
    below `floor` times the entropy of the predictions are rounding, not change; so are values that are not finite.
    """
    weight, loss_weight = totals.weight or math.nan, totals.loss_weight
    raw = {name: value / weight for name, value in totals.divergence.items()}
    threshold = floor * totals.entropy / weight
    reason = failed or _reason(raw, totals, exponent, threshold)
    return Balance(
        log_kappa=math.nan if reason else _log_kappa(raw, exponent, amplification, _EPSILON * threshold),
        divergence={name: value / amplification.get(name, 1.0) ** exponent for name, value in raw.items()},
        losses={name: value / loss_weight for name, value in totals.loss.items()} if loss_weight else {},
        interaction=None if reason else _interaction(raw, exponent),
        exponent=exponent,
        amplification=dict(amplification),
        reason=reason,
        tokens=0 if math.isnan(totals.tokens) else int(totals.tokens),
        forwards=forwards,
        seconds=seconds,
    )


def _reason(raw: Mapping[str, float], totals: Totals, exponent: int, threshold: float) -> str | None:
    """Return why a measurement says nothing, None when it does."""
    if totals.weight == 0:
        return "the probe has no token that carries loss"
    if not all(math.isfinite(value) for value in (*raw.values(), totals.entropy)):
        return "the predictions are not finite"
    sizes = [raw[side] ** (2 / exponent) for side in (FEATURES, LANGUAGE)]
    if not any(sizes):
        return "neither side moved"
    if max(sizes) < threshold:
        return "both sides' changes are below the threshold"
    return None


def _log_kappa(raw: Mapping[str, float], exponent: int, amplification: Mapping[str, float], epsilon: float) -> float:
    """Return ln D_language - ln D_features, the amplification taken out; infinite when one side is frozen."""
    if not raw[FEATURES] or not raw[LANGUAGE]:
        return math.inf if raw[LANGUAGE] else -math.inf
    logs = {
        side: exponent * (math.log(raw[side] ** (2 / exponent) + epsilon) / 2 - math.log(amplification.get(side, 1.0)))
        for side in (FEATURES, LANGUAGE)
    }
    return logs[LANGUAGE] - logs[FEATURES]


def _interaction(raw: Mapping[str, float], exponent: int) -> float | None:
    """Return (D11 - D10 - D01) / 2 sqrt(D10 D01) of divergences that grow with the square of the step.

    It needs no correction for amplification: numerator and denominator scale alike.
    """
    squares = {name: value ** (2 / exponent) for name, value in raw.items()}
    scale = 2 * math.sqrt(squares[FEATURES] * squares[LANGUAGE])
    return (squares[BOTH] - squares[FEATURES] - squares[LANGUAGE]) / scale if scale and BOTH in squares else None
