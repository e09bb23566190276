"""The section on the balance: log kappa with its noise, what each side's steps did, and when the diagnosis spoke."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from cotune.reporting.report.blocks import Block, Figure, Missing, Section
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.series import centred, column, noise_bands, thinned
from cotune.reporting.report.svg import COLORS, color_of
from cotune.trace import Row

_MEMORY = 0.97  # the diagnosis' own, where a recipe does not say
_SHOWN = 500  # measurements a figure has room for
_NEIGHBOURS = 0.15  # the share of a curve that is averaged over


def balance_section(record: RunRecord) -> Section:
    """Return log kappa, the divergence of each side's step, and a strip of flags; why not, where none was measured."""
    rows = record.measured
    if not rows:
        return Section("Balance", [Missing(f"The balance of the two sides: {_unmeasured(record)}.")])
    return Section("Balance", [_log_kappa(record, rows), _divergence(rows), *_flags(rows)])


def _unmeasured(record: RunRecord) -> str:
    if record.setting("coordination", "measure_every") == 0:
        return "coordination.measure_every is 0"
    return "no step of the trace measured it; one side may have nothing that learns, or the run is too young or too old"


def _log_kappa(record: RunRecord, rows: Sequence[Row]) -> Block:
    points = column(rows, "balance", "log_kappa")
    left = len(rows) - len(points)
    if not points:
        return Missing(f"log kappa: none of the {len(rows)} measurements gave a number.")
    memory = record.setting("coordination", "diagnosis", "memory")
    bands = noise_bands([value for _, value in points], _MEMORY if memory is None else float(memory))
    every = -(-len(points) // _SHOWN)
    points, bands = points[::every], bands[::every]

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        steps = [step for step, _ in points]
        for width, alpha in (("single", 0.13), ("average", 0.3)):
            lows = [band.value - getattr(band, width) for band in bands]
            highs = [band.value + getattr(band, width) for band in bands]
            axis.fill_between(steps, lows, highs, color=COLORS["accent"], alpha=alpha, linewidth=0)
        axis.axhline(0.0, color=COLORS["ink"], linewidth=0.9)
        axis.plot(*zip(*points, strict=True), ".", color=COLORS["soft"], alpha=0.55, markersize=3.5)
        axis.plot(steps, [band.value for band in bands], color=COLORS["accent"])
        _name_sides(axis)
        axis.set_xlabel("step")
        axis.set_ylabel("log kappa")

    caption = (
        "Which side's step moves the answers more: 0 is equal. Dots: measurements. Line: their running average. Dark "
        "band: the average's 95% noise; pale: where 95% of single measurements fall by noise alone."
    )
    caption += f" One of {every} measurements is drawn." if every > 1 else ""
    caption += f" {left} measurements without a finite value are left out." if left else ""
    return Figure("log-kappa", "Balance: log kappa", caption, draw, (4.4, 3.0))


def _name_sides(axis: Any) -> None:
    """Say above and below zero which side is ahead there, with zero in sight."""
    low, high = axis.get_ylim()
    room = 0.16 * (max(high, 0.0) - min(low, 0.0) or 1.0)
    axis.set_ylim(min(low, -room), max(high, room))
    for height, name, where in ((0.98, "language", "top"), (0.02, "features", "bottom")):
        label = {"language": "language side moves more", "features": "feature side moves more"}[name]
        style = {"fontsize": 8.5, "color": COLORS[name], "va": where, "ha": "right", "weight": "bold"}
        axis.text(0.99, height, label, transform=axis.transAxes, **style)


def _divergence(rows: Sequence[Row]) -> Block:
    names = list(dict.fromkeys(name for row in rows for name in row["balance"].get("divergence", {})))
    series = {name: [(s, v) for s, v in column(rows, "balance", "divergence", name) if v > 0] for name in names}

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        for name, points in series.items():
            if not points:
                continue
            buckets = thinned(points)
            steps, means = [bucket.step for bucket in buckets], [bucket.mean for bucket in buckets]
            logs = centred([math.log(mean) for mean in means], _NEIGHBOURS)
            axis.plot(steps, means, ".", color=color_of(name), alpha=0.4, markersize=3.5)
            axis.plot(steps, [math.exp(value) for value in logs], color=color_of(name), label=name)
        axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.set_ylabel("nats per token")
        canvas.legend(loc="outside upper left", ncols=3)

    if not any(series.values()):
        return Missing("What each side's step did to the answers: no divergence above 0 was measured.")
    caption = "How far one step of each side alone moves the predictions: the divergence (KL unless chosen otherwise)."
    return Figure("divergence", "What a step changes", caption, draw)


def _flags(rows: Sequence[Row]) -> list[Block]:
    """Return a strip for every flag that was ever raised, dark where it was; nothing where none was."""
    shown = raised_flags(rows)
    if not shown:
        return []
    steps = [row["step"] for row in rows if "diagnosis" in row["balance"]]

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        for height, flags in enumerate(shown.values()):
            axis.broken_barh([(steps[0], steps[-1] - steps[0] or 1)], (height - 0.3, 0.6), facecolor=COLORS["line"])
            axis.broken_barh(_stretches(steps, flags), (height - 0.3, 0.6), facecolor=COLORS["bad"])
        axis.set_yticks(range(len(shown)), list(shown))
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.grid(visible=False)
        axis.spines["left"].set_visible(False)
        axis.tick_params(left=False)
        axis.set_xlabel("step")

    caption = "When the diagnosis raised a flag (red). What to do about those at the end stands under Findings."
    return [Figure("flags", "Flags over the run", caption, draw, (4.4, 0.9 + 0.34 * len(shown)))]


def flags_of(diagnosis: Row) -> list[str]:
    """Return the flags that a diagnosis raised, in few words."""
    named = {"rejected": "rejected", "biased": "one side leads", "alternating": "oscillates"}
    parts = diagnosis.get("components", {})
    return [
        *(words for key, words in named.items() if diagnosis.get(key)),
        *(f"{part} fade" for part, found in parts.items() if found.get("insufficient")),
    ]


def raised_flags(rows: Sequence[Row]) -> dict[str, list[bool]]:
    """Return every flag that was ever raised, with whether it was up at each diagnosed measurement."""
    found = [flags_of(row["balance"]["diagnosis"]) for row in rows if "diagnosis" in row["balance"]]
    return {name: [name in flags for flags in found] for name in dict.fromkeys(chain(*found))}


def _stretches(steps: Sequence[int], flags: Sequence[bool]) -> list[tuple[float, float]]:
    """Return (start, length) of where flags were up, the last measurement of a stretch to the next one included."""
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    ends = [*steps[1:], steps[-1] + last]
    found: list[tuple[float, float]] = []
    for up, group in groupby(zip(steps, ends, flags, strict=True), key=itemgetter(2)):
        places = list(group)
        if up:
            found.append((places[0][0], places[-1][1] - places[0][0]))
    return found
