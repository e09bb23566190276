"""The section on the data: what was counted, left out or skipped, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.blocks import Block, Missing, Section
from cotune.reporting.report.record import RunRecord

_SHOWN = 20
_NAMED = 4


def data_section(record: RunRecord) -> Section:
    """Return the counts of samples and of everything that was left out, and the skipped steps with their samples."""
    return Section("Data and skips", [*_counts(record), *_skipped(record), *_snapshots(record)])


def counts_of(record: RunRecord) -> Mapping[str, int]:
    """Return everything the run has counted; before its end, what it counted at the start."""
    counts = record.result.get("counts") or {
        key: value for key, value in record.newest("counts").items() if key not in ("event", "step", "seconds")
    }
    return counts or record.start.get("samples") or {}


def _counts(record: RunRecord) -> list[Block]:
    counts = counts_of(record)
    if not counts:
        return [Missing("Counts of samples: the trace has neither a start nor an end.")]
    rows = [[name, f"{value:,}"] for name, value in counts.items()]
    padding, tokens = (sum(row.get(key, 0) for row in record.steps) for key in ("padding", "tokens"))
    if tokens:
        learned = sum(row.get("loss_tokens", 0) for row in record.steps)
        rows += [
            ["tokens seen", f"{tokens:,}"],
            ["of which carry loss", f"{learned:,}"],
            ["padding", f"{padding / (padding + tokens):.1%}"],
        ]
    blocks: list[Block] = [Printed("Counted", ["what", "number"], rows)]
    if record.result.get("too_long"):
        named = ", ".join(record.result["too_long"])
        blocks.append(Printed("Too long for data.max_tokens", ["samples (the first ones)"], [[named]]))
    return blocks


def _skipped(record: RunRecord) -> list[Block]:
    rows = record.rows.get("skipped", ())
    if not rows:
        return []
    cells = [[str(row["step"]), f"{row.get('loss', float('nan')):g}", _reason(row), _samples(row)] for row in rows]
    title = f"Skipped steps: {len(rows)}" + (f", the first {_SHOWN}" if len(rows) > _SHOWN else "")
    return [Printed(title, ["step", "loss", "why", "samples to look at"], cells[:_SHOWN])]


def _reason(row: Mapping[str, Any]) -> str:
    """Return what was no number in a skipped step."""
    broken = [name for name, value in row.get("gradient_norms", {}).items() if not abs(value) < float("inf")]
    if not abs(row.get("loss", 0.0)) < float("inf"):
        return "the loss is no number"
    return f"the gradient of {', '.join(broken)} is no number" if broken else "not said"


def _samples(row: Mapping[str, Any]) -> str:
    named = list(map(str, row.get("samples", ())))
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more


def _snapshots(record: RunRecord) -> list[Block]:
    rows = record.rows.get("snapshot failed", ())
    cells = [[str(row["step"]), str(row.get("reason", "-"))] for row in rows]
    return [Printed("Snapshots that could not be written", ["step", "why"], cells)] if cells else []
