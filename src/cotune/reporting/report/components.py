"""The section on the components: their rates, gradients and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.blocks import Block, Figure, Missing, Section
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.series import Points, column, thinned
from cotune.reporting.report.svg import COLORS, color_of


def components_section(record: RunRecord) -> Section:
    """Return what learns and how much of it, the rates in force, the rule's multipliers and the gradient norms."""
    blocks = [*_table(record), _rates(record), *_multipliers(record), _gradients(record)]
    return Section("Components", blocks)


def _table(record: RunRecord) -> list[Block]:
    parts: Mapping[str, Sequence[int]] = record.start.get("components") or {}
    if not parts:
        return [Missing("Parameters by component: the trace has no start event that names them.")]
    moved, still = record.newest("moved").get("components") or {}, record.newest("moved").get("still") or {}
    rows = []
    for name, (trainable, total) in parts.items():
        tune = record.setting("components", name, "tune") or "-"
        seen = ("yes" if moved[name] else "no") if name in moved else "-" if trainable else "frozen"
        if seen == "yes" and still.get(name):
            seen = f"all but {len(still[name])} tensors"
        share = f"{trainable / total:.3%}" if total else "-"
        rows.append([name, str(tune), f"{trainable:,}", f"{total:,}", share, seen])
    columns = ["component", "tune", "trainable", "total", "share", "moved in the first steps"]
    return [Printed("What learns", columns, rows)]


def _by_component(rows: Sequence[Any], *keys: str) -> dict[str, Points]:
    """Return the series of every component under nested keys."""
    names: dict[str, None] = {}
    for row in rows:
        found = row
        for key in keys:
            found = found.get(key) or {}
        names |= dict.fromkeys(found)
    return {name: column(rows, *keys, name) for name in names}


def _together(series: Mapping[str, Points]) -> dict[str, tuple[str, Points]]:
    """Return series by their names joined, equal ones as one, with the component whose colour they take."""
    groups: list[tuple[list[str], Points]] = []
    for name, points in series.items():
        same = next((names for names, known in groups if known == points), None)
        if same is None:
            groups.append(([name], points))
        else:
            same.append(name)
    return {" = ".join(names): (names[-1], points) for names, points in groups if points}


def _rates(record: RunRecord) -> Block:
    series = _together(_by_component(record.steps, "rates"))
    if not series:
        return Missing("Learning rates: no step of the trace holds them.")

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        for label, (name, points) in series.items():
            # Not averaged: a rate is a choice, and its jumps are what there is to see.
            axis.plot(*zip(*points, strict=True), color=color_of(name), label=label)
        axis.set_ylim(bottom=0.0)
        axis.set_xlabel("step")
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        canvas.legend(loc="outside upper left", ncols=3)

    return Figure("rates", "Learning rates", "As taken: schedule times the rule's multiplier.", draw)


def _multipliers(record: RunRecord) -> list[Block]:
    """Return the rule's multipliers; nothing where all of them stayed at 1."""
    series = _by_component(record.measured, "balance", "multipliers")
    if all(value == 1.0 for points in series.values() for _, value in points):
        return []
    shown = _together(series)

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        for label, (name, points) in shown.items():
            axis.plot(*zip(*points, strict=True), color=color_of(name), drawstyle="steps-post", label=label)
        _scale_of_factors(axis, [value for points in series.values() for _, value in points])
        axis.set_xlabel("step")
        canvas.legend(loc="outside upper left", ncols=3)

    rule = record.setting("coordination", "rule") or "the rule"
    return [Figure("multipliers", "Multipliers", f"What {rule} multiplies each component's rate by.", draw)]


def _scale_of_factors(axis: Any, values: Sequence[float]) -> None:
    """Scale an axis logarithmically, with ticks at 1, 2 and 5 times powers of ten."""
    if min(values) <= 0:  # a rule that holds one side gives it 0
        axis.set_yscale("symlog", linthresh=1e-3)
        return
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_yticks([], minor=True)
    axis.axhline(1.0, color=COLORS["ink"], linewidth=0.9, zorder=1)


def _gradients(record: RunRecord) -> Block:
    series = {
        name: [(step, value) for step, value in points if value > 0]
        for name, points in _by_component(record.steps, "gradient_norms").items()
    }
    if not any(series.values()):
        return Missing("Gradient norms: no step of the trace holds one above 0.")

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        for name, points in series.items():
            buckets = thinned(points)
            steps = [bucket.step for bucket in buckets]
            axis.plot(steps, [bucket.mean for bucket in buckets], color=color_of(name), linewidth=1.3, label=name)
        axis.set_yscale("log")
        axis.set_xlabel("step")
        canvas.legend(loc="outside upper left", ncols=3)

    return Figure("gradients", "Gradient norms", "Before clipping, by component.", draw)
