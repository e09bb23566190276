"""Curves that should grow by a power: measured and predicted exponents, and their picture on log-log axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cotune.reporting.figure import make_figure

_MEASURED, _PREDICTED = "#4c72b0", "#c44e52"
_COLUMNS = 4


@dataclass
class Curve:
    """What was measured at some sizes, and what is predicted there up to a factor; `unit` is that of `measured`."""

    title: str
    unit: str
    sizes: list[float]
    measured: list[float]
    predicted: list[float]
    why: str = ""
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def exponent(self) -> float:
        """The power by which the measured values grow."""
        return exponent(self.sizes, self.measured)

    @property
    def expected(self) -> float:
        """The power by which the predicted values grow over the same sizes."""
        return exponent(self.sizes, self.predicted)

    def as_result(self) -> dict[str, object]:
        """Return what is written down of the curve."""
        powers = {"exponent": round(self.exponent, 3), "predicted_exponent": round(self.expected, 3)}
        points = {"sizes": self.sizes, "measured": self.measured, "rounds": self.rounds}
        return powers | {"unit": self.unit, "prediction": self.why} | points


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of log values on log sizes, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(curves: Mapping[str, Curve], files: Sequence[Path]) -> None:
    """Draw every curve with its prediction, moved to the measured values' mean, and save the picture as files."""
    rows = -(-len(curves) // _COLUMNS)
    figure, panels = make_figure(rows, _COLUMNS, (4.2 * _COLUMNS, 3.6 * rows))
    flat = [panel for row in panels for panel in row]
    for panel, curve in zip(flat, curves.values(), strict=False):
        shift = np.exp(np.mean(np.log(curve.measured)) - np.mean(np.log(curve.predicted)))
        label = f"predicted, exponent {curve.expected:.2f}"
        panel.loglog(curve.sizes, shift * np.array(curve.predicted), "--", color=_PREDICTED, label=label)
        label = f"measured, exponent {curve.exponent:.2f}"
        panel.loglog(curve.sizes, curve.measured, "o-", color=_MEASURED, label=label)
        panel.set_title(curve.title, fontsize=10)
        panel.set_ylabel(curve.unit)
        panel.minorticks_off()
        panel.set_xticks(curve.sizes, [_short(size) for size in curve.sizes], fontsize=8)
        # A decade at least: what hardly grows should look so.
        least, most = panel.get_ylim()
        if most / least < 10:
            middle = (least * most) ** 0.5
            panel.set_ylim(middle / 10**0.5, middle * 10**0.5)
        panel.grid(alpha=0.3, which="major")
        panel.legend(fontsize=8)
    for panel in flat[len(curves) :]:
        panel.set_visible(False)
    for file in files:
        figure.savefig(file, dpi=110)


def _short(size: float) -> str:
    """Return a size with k or M in place of zeros."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if size >= unit and size % unit == 0:
            return f"{size // unit:.0f}{name}"
    return f"{size:.0f}"
