"""The thresholds of a diagnosis, and its report of the newest measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from cotune.coordination.learning import GradientSize
from cotune.coordination.loop_health import LoopHealth
from cotune.coordination.oscillation import Oscillation
from cotune.errors import ModelError


@dataclass(frozen=True)
class DiagnosisSettings:
    """When a diagnosis speaks; raises ModelError for a value out of range.

    `window` counts measurements. `insufficient`: index above which a component has faded. `biased`: kappa above which
    (or below whose inverse) one side leads. `share`: part of a window for which either must hold. `moving_loss`:
    relative change of the loss per step above which it has not settled; `target_loss`: nor while it is above this.
    `alternating`: autocorrelation below which the balance alternates. `swing`: kappa's typical factor above which it
    swings. `opposed`: interaction below which the sides work against each other. `saturated`: what is left of
    the efficiency below which a component no longer reaches the output. `memory` of the averaged log kappa.
    `warmup_steps` are not compared with. `log_limit`: the rule's clamp on the log ratio of the multipliers.
    """

    window: int = 20
    insufficient: float = 0.9
    biased: float = 4.0
    share: float = 2 / 3
    moving_loss: float = 1e-3
    target_loss: float | None = None
    alternating: float = -0.3
    swing: float = 4.0
    opposed: float = -0.5
    saturated: float = 0.3
    memory: float = 0.97
    warmup_steps: int = 0
    log_limit: float = math.inf

    def __post_init__(self) -> None:
        ranges = {
            "window": isinstance(self.window, int) and self.window >= 2,
            "insufficient": 0 < self.insufficient < 1,
            "biased": self.biased > 1,
            "share": 0 < self.share <= 1,
            "moving_loss": self.moving_loss >= 0,
            "alternating": -1 <= self.alternating < 0,
            "swing": self.swing > 1,
            "opposed": -1 <= self.opposed < 0,
            "saturated": 0 < self.saturated < 1,
            "memory": 0 <= self.memory < 1,
            "warmup_steps": self.warmup_steps >= 0,
            "log_limit": self.log_limit > 0,
        }
        wrong = [f"{name}={getattr(self, name)}" for name, fits in ranges.items() if not fits]
        if wrong:
            raise ModelError(f"diagnosis: out of range: {', '.join(wrong)}; see DiagnosisSettings for what each means")


@dataclass(frozen=True)
class ComponentReport:
    """One component at the newest measurement; `sufficiency` and `learning` define the numbers."""

    divergence: float
    change: float
    progress: float | None = None
    efficiency: float | None = None
    efficiency_left: float | None = None
    gradient: GradientSize | None = None
    insufficiency: float | None = None
    insufficient: bool = False


@dataclass(frozen=True)
class Report:
    """Everything known at the newest measurement; None where too little has been measured.

    `log_kappa_free` is log kappa as it would be without the rule's multipliers, `log_kappa_average` the running
    average, `log_kappa_median` that of the newest window. `noise_known`: whether sampling noise was taken out of the
    oscillation; it needs measurements of two halves of the probe. `loss_settled` is None while it cannot be told.
    """

    step: int = 0
    exponent: float = 2.0
    rejected_share: float = 0.0
    log_kappa: float | None = None
    log_kappa_average: float | None = None
    log_kappa_free: float | None = None
    log_kappa_median: float | None = None
    biased: bool = False
    oscillation: Oscillation | None = None
    noise_known: bool = False
    alternating: bool = False
    flip_rate: float = 0.0
    interaction: float | None = None
    interaction_median: float | None = None
    loop: LoopHealth | None = None
    loss_settled: bool | None = None
    components: dict[str, ComponentReport] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return it as nested plain values for a trace, without the step and without what is not known."""
        return {name: value for name, value in _plain(self).items() if name != "step"}


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts, all the way down, without their fields that are None."""
    if is_dataclass(value):
        found = {item.name: getattr(value, item.name) for item in fields(value)}
        return {name: _plain(part) for name, part in found.items() if part is not None}
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, dict) else value


def report_of(step: int, row: Mapping[str, Any]) -> Report:
    """Return the report whose `row` a trace holds; keys of another version are passed over."""
    nested = {"oscillation": Oscillation, "loop": LoopHealth}
    found = {name: _built(nested[name], value) if name in nested else value for name, value in row.items()}
    parts = {name: _built(ComponentReport, part) for name, part in row.get("components", {}).items()}
    report: Report = _built(Report, {**found, "step": step, "components": parts})
    return report


def _built(kind: Any, values: Mapping[str, Any]) -> Any:
    """Return a dataclass of those values it has a field for; fields without a value or a default are None."""
    needed = {item.name: None for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING}
    return kind(**needed | {item.name: values[item.name] for item in fields(kind) if item.name in values})
