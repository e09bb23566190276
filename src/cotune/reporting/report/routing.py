"""The section on routing: which expert answers for which modality at every layer, and whether experts parted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.blocks import Block, Figure, Missing, Section
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.svg import COLORS, label
from cotune.trace import Row

_ROW_HEIGHT, _MARGIN = 0.105, 0.95  # inches
_READABLE = 12  # sites whose numbers fit their cells


def routing_section(record: RunRecord) -> Section:
    """Return the routing weights as a heat map [site, modality x expert], and how far the experts have parted."""
    row = record.newest("routing")
    blocks: list[Block] = [_heat_map(row)] if row.get("weights") else [Missing(_reason(record))]
    return Section("Routing", [*blocks, *_experts(record)])


def _reason(record: RunRecord) -> str:
    if record.setting("components", "llm", "tune") in ("frozen", "lora", "dora", "full"):
        return "Routing weights: the language model of this run has no routed adapters."
    if record.setting("model", "llm", "routing", "mode") == "content":
        return "Routing weights: every input chooses its experts itself, so there is no table."
    return "Routing weights: not in this trace; they are recorded at every validation and at the end of a run."


def _heat_map(row: Row) -> Block:
    names, weights = row["modalities"], row["weights"]

    def draw(canvas: Any) -> None:
        axes = canvas.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for place, (axis, name) in enumerate(zip(axes, names, strict=True)):
            table = [site[place] for site in weights.values()]
            _draw_modality(axis, table, name)
        _name_sites(axes[0], list(weights))
        canvas.supxlabel("expert", fontsize=9, color=COLORS["soft"])

    equal = len({str(table) for table in weights.values()}) == 1 and len(weights) > 1
    caption = (
        f"After step {row['step']}: the share each expert has in a site's change, by modality; filled is 1, empty 0."
    )
    caption += " All sites are routed alike." if equal else ""
    caption += " Text owns no expert: its path is the base model." if _untouched(names, weights) else ""
    height = _MARGIN + max(len(weights), 4) * (_ROW_HEIGHT if len(weights) > _READABLE else 2 * _ROW_HEIGHT)
    return Figure("routing", "Routing weights: layer x modality x expert", caption, draw, (4.4, height))


def _untouched(names: Sequence[str], weights: Mapping[str, Any]) -> bool:
    """Return whether the text rows are all zero."""
    return "text" in names and not any(any(site[list(names).index("text")]) for site in weights.values())


def _draw_modality(axis: Any, table: Sequence[Sequence[float]], name: str) -> None:
    from matplotlib.patches import Rectangle

    experts = len(table[0])
    for height, row in enumerate(table):
        for expert, weight in enumerate(row):
            corner = (expert - 0.46, height - 0.42)
            axis.add_patch(Rectangle(corner, 0.92, 0.84, facecolor=COLORS["line"], alpha=0.45, linewidth=0))
            if weight > 0:
                axis.add_patch(
                    Rectangle(corner, 0.92, 0.84, facecolor=COLORS["accent"], alpha=min(1.0, weight), linewidth=0)
                )
            if len(table) <= _READABLE:
                color = COLORS["card"] if weight > 0.6 else COLORS["ink"]
                axis.text(expert, height, f"{weight:.2f}", ha="center", va="center", fontsize=7.5, color=color)
    axis.set_xlim(-0.5, experts - 0.5)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xticks(range(experts), [str(expert + 1) for expert in range(experts)])
    axis.set_title(label(name), fontsize=9, color=COLORS["ink"])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _name_sites(axis: Any, sites: Sequence[str]) -> None:
    """Name every site by its layer's number, every so many where there are many."""
    numbers = [re.findall(r"\d+", site) for site in sites]
    labels = [found[0] if found else site for found, site in zip(numbers, sites, strict=True)]
    every = max(1, len(sites) // 10)
    places = list(range(0, len(sites), every))
    axis.set_yticks(places, [labels[place] for place in places])
    axis.set_ylabel("layer")


def _experts(record: RunRecord) -> list[Block]:
    newest = {row["component"]: row for row in record.rows.get("experts", ())}
    rows = [
        [name, _number(row.get("cosine")), _number(row.get("weight_gap")), str(row.get("verdict", "-"))]
        for name, row in newest.items()
    ]
    columns = ["component", "largest cosine of two experts", "largest gap of weights", "verdict"]
    return [Printed("Have the experts parted?", columns, rows)] if rows else []


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
