"""The section on costs: speed over the run, memory beside its estimate, and the table of what tuning took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.blocks import Block, Figure, Missing, Section
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.svg import COLORS
from cotune.training.run_costs import COLUMNS, RunCosts, cost_notes, cost_rows

_POINTS = 120
_GIB = 2**30


def costs_section(record: RunRecord) -> Section:
    """Return tokens a second over the steps, memory beside the estimate, and the cost table of a finished run."""
    return Section("Speed and cost", [_speed(record), _memory(record), *_table(record)])


def _speed(record: RunRecord) -> Block:
    rows = [row for row in record.steps if row.get("tokens") and row.get("step_seconds")]
    if not rows:
        return Missing("Tokens per second: the steps of this trace do not hold tokens and seconds.")
    size = -(-len(rows) // _POINTS)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    steps = [part[-1]["step"] for part in parts]
    # Of sums: a mean of rates would count short steps twice.
    seconds = [sum(row["step_seconds"] for row in part) for part in parts]
    speeds = [sum(row["tokens"] for row in part) / spent for part, spent in zip(parts, seconds, strict=True)]
    mean = sum(row["tokens"] for row in rows) / sum(row["step_seconds"] for row in rows)

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        axis.plot(steps, speeds, color=COLORS["one"], linewidth=1.3)
        axis.axhline(mean, color=COLORS["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
        axis.set_ylim(bottom=0.0)
        axis.set_xlabel("step")
        axis.set_ylabel("tokens per second")

    over = f"over {size} steps each" if size > 1 else "step by step"
    caption = f"Speed {over}, padding not counted. Dashed: {mean:,.0f} over the whole run."
    return Figure("speed", "Speed", caption, draw)


def peak_memory(record: RunRecord) -> int | None:
    """Return the most memory a process of the run has held, in bytes; None where the run does not say."""
    found = record.result.get("peak_memory_bytes") or (
        record.steps[-1].get("peak_memory_bytes") if record.steps else None
    )
    return int(found) if found else None


def expected_memory(record: RunRecord) -> Mapping[str, int]:
    """Return the estimate of a step's memory in bytes as low, expected and high; empty where none was made."""
    found = record.start.get("memory")
    if found:
        return {key: int(found[key]) for key in ("low", "expected", "high")}
    compared = record.result.get("estimate") or {}
    sizes = {key: compared.get(f"memory_{key}_bytes") for key in ("low", "expected", "high")}
    return {key: int(size) for key, size in sizes.items() if size} if all(sizes.values()) else {}


def _memory(record: RunRecord) -> Block:
    peak, expected = peak_memory(record), expected_memory(record)
    taken = (record.result.get("estimate") or {}).get("memory_taken_bytes")
    if peak is None:
        return Missing("Memory: the trace does not say what the process held.")
    bars = {"held at most": peak} | ({"of it for model and steps": taken} if taken and taken != peak else {})

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        names = [*bars, *(["estimate of a step"] if expected else [])]
        for height, size in enumerate(bars.values()):
            axis.barh(height, size / _GIB, 0.5, color=COLORS["one"], alpha=0.85 if height == 0 else 0.5)
            axis.annotate(f"{size / _GIB:.2f}", (size / _GIB, height), (3, 0), textcoords="offset points", va="center")
        if expected:
            low, middle, high = (expected[key] / _GIB for key in ("low", "expected", "high"))
            axis.barh(len(bars), high - low, 0.5, left=low, color=COLORS["four"], alpha=0.35)
            axis.plot([middle] * 2, [len(bars) - 0.25, len(bars) + 0.25], color=COLORS["four"], linewidth=2.5)
            axis.annotate(f"{middle:.2f}", (high, len(bars)), (3, 0), textcoords="offset points", va="center")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(0, 1.15 * max([*bars.values(), *expected.values()]) / _GIB)
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("GiB")

    caption = "The largest memory one process has held; on a CPU that includes Python and its libraries."
    caption += " Beside it the estimate made before the first step: line expected, bar from low to high."
    return Figure("memory", "Memory", caption if expected else caption.split(" Beside")[0], draw, (4.4, 2.0))


def _table(record: RunRecord) -> list[Block]:
    result = record.result
    if not {"trainable_parameters", "peak_memory_bytes", "seconds", "tokens_per_second"} <= result.keys():
        return [Missing("The cost table: it is made when a run is finished.")]
    parts = record.start.get("components") or {}
    operations = (result.get("estimate") or {}).get("operations")
    adapter = record.folder / "adapter"
    costs = [
        RunCosts(
            run=record.name,
            trainable=result["trainable_parameters"],
            total=sum(total for _, total in parts.values()) or None,
            storage=sum(file.stat().st_size for file in adapter.glob("*") if file.is_file()),
            memory=result["peak_memory_bytes"],
            processes=result.get("processes", 1),
            seconds=result["seconds"],
            wall_seconds=result.get("wall_seconds"),
            operations=operations,
            tokens_per_second=result["tokens_per_second"],
            not_counted=None if operations else "the run made no estimate (`cotune cost` counts them)",
        )
    ]
    notes = Printed("What the table rests on", ["note"], [[note] for note in cost_notes(costs)])
    return [Printed("What tuning cost", COLUMNS, cost_rows(costs)), notes]
