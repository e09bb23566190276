"""Writes the report of a run, once or again and again while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotune.reporting.report.balance import balance_section
from cotune.reporting.report.blocks import Figure, Findings, Section, Tiles
from cotune.reporting.report.components import components_section
from cotune.reporting.report.costs import costs_section
from cotune.reporting.report.data import data_section
from cotune.reporting.report.findings import findings
from cotune.reporting.report.learning import learning_section
from cotune.reporting.report.markdown import markdown_report
from cotune.reporting.report.page import html_report
from cotune.reporting.report.record import RunRecord, read_record
from cotune.reporting.report.routing import routing_section
from cotune.reporting.report.samples import samples_section
from cotune.reporting.report.summary import environment_section, status_line, tiles
from cotune.reporting.report.svg import draw_svg, standalone
from cotune.whole_file import write_whole

_FIGURES = "report"


@dataclass(frozen=True)
class Written:
    """The files of a report: the page, the Markdown, and a picture for every figure."""

    page: Path
    markdown: Path
    figures: Sequence[Path]


def sections_of(record: RunRecord) -> list[Section]:
    """Return the sections of a run's report, in their order."""
    return [
        Section("At a glance", [Tiles(tiles(record))]),
        Section("Findings", [Findings(findings(record))]),
        learning_section(record),
        balance_section(record),
        components_section(record),
        routing_section(record),
        costs_section(record),
        data_section(record),
        samples_section(record),
        environment_section(record),
    ]


def write_report(record: RunRecord, out: Path | None = None, *, refresh: int | None = None) -> Written:
    """Write `report.html`, `report.md` and `report/*.svg` into `out` (default: the run folder) and return the files.

    With `refresh` the page loads itself again after so many seconds.

    Raises:
        RunFolderError: when they cannot be written.
    """
    folder = out or record.folder
    sections = sections_of(record)
    wanted = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
    drawn = {figure.name: draw_svg(figure) for figure in wanted}
    status = (record.state, status_line(record))
    page, text = folder / "report.html", folder / "report.md"
    pictures = [folder / _FIGURES / f"{name}.svg" for name in drawn]
    for file, svg in zip(pictures, drawn.values(), strict=True):
        write_whole(file, standalone(svg))
    write_whole(text, markdown_report(record.name, status, sections, _FIGURES))
    write_whole(page, html_report(record.name, status, sections, drawn, refresh=refresh))
    return Written(page, text, pictures)


def watch_report(
    folder: Path,
    every: int,
    tell: Callable[[RunRecord, Written], object],
    out: Path | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Written:
    """Write the report again whenever the run has written something, until it is finished; return the files.

    `tell` hears of every report. A run that was stopped is waited for: it may be resumed. The last page no longer
    loads itself again.

    Raises:
        RunFolderError: as `read_record`, when there is no run at the start.
    """
    seen = ""
    while True:
        record = read_record(folder)
        now = f"{record.state} {record.last_step} {sum(map(len, record.rows.values()))}"
        finished = record.state == "finished" and bool(record.result)
        if now != seen or finished:
            seen = now
            written = write_report(record, out, refresh=None if finished else every)
            tell(record, written)
        if finished:
            return written
        wait(float(every))
