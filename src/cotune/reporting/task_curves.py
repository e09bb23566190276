"""A picture of a run's further tasks: the main score of each after the steps it was scored at."""

from __future__ import annotations

from pathlib import Path

from cotune.reporting.figure import make_figure
from cotune.trace import Row, read_trace

_COLUMNS = 3


def draw_tasks(trace: Path, file: Path) -> Path | None:
    """Draw a panel for every task that was scored more than once; returns the file, None where there is none."""
    found: dict[str, dict[int, Row]] = {}
    for row in read_trace(trace, "task"):
        found.setdefault(row["name"], {})[row["step"]] = row
    drawn = {name: rows for name, rows in found.items() if len(rows) > 1}
    if not drawn:
        return None
    columns = min(_COLUMNS, len(drawn))
    figure, axes = make_figure(-(-len(drawn) // columns), columns, (4.2 * columns, 3.2 * -(-len(drawn) // columns)))
    panels = [axis for line in axes for axis in line]
    for axis, (name, rows) in zip(panels, drawn.items(), strict=False):
        main = next(iter(rows.values()))["main"]
        known = [(step, row["scores"][main]) for step, row in rows.items() if row["scores"].get(main) is not None]
        if known:
            axis.plot(*zip(*known, strict=True), "o-")
        axis.set_title(f"{name}: {main}")
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    for axis in panels[len(drawn) :]:
        axis.axis("off")
    figure.savefig(file, dpi=110)
    return file
