"""Commands that show what happened in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.commands.shared import RunArgument, console_of_rank

app = typer.Typer()


@app.command(epilog="Example: cotune report runs/quickstart --watch")
def report(
    run: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="write it again while the run goes on")] = False,
    every: Annotated[int, typer.Option(min=1, help="seconds between looks, with --watch")] = 10,
    out: Annotated[Path | None, typer.Option(help="folder to write; default RUN")] = None,
) -> None:
    """Write a page about a run, finished or not: what it learned, what went wrong, what it cost."""
    from cotune.reporting.report.record import RunRecord, read_record
    from cotune.reporting.report.summary import status_line
    from cotune.reporting.report.write import Written, watch_report, write_report

    console = console_of_rank()

    def tell(record: RunRecord, written: Written) -> None:
        console.print(f"{record.state}, {status_line(record)}: {written.page}", soft_wrap=True)

    if watch:
        written = watch_report(run, every, tell, out)
    else:
        record = read_record(run)
        with console.status("Drawing the report"):
            written = write_report(record, out)
        tell(record, written)
    console.print(f"Markdown: {written.markdown}", soft_wrap=True)
    console.print(f"Figures:  {len(written.figures)} SVG files in {written.markdown.parent / 'report'}", soft_wrap=True)
