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


@app.command(epilog="Example: cotune card runs/quickstart --license apache-2.0")
def card(
    run: RunArgument,
    license: Annotated[str | None, typer.Option(help="of what was trained, as the hub names it: apache-2.0")] = None,
    language: Annotated[str | None, typer.Option(help="two or three letters: en")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; default RUN/README.md")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a card that is there")] = False,
) -> None:
    """Write a model card of a finished run for the Hugging Face hub."""
    from cotune.reporting.report.card import write_card
    from cotune.reporting.report.record import read_record

    console = console_of_rank()
    file = write_card(
        read_record(run), out or run / "README.md", license=license, language=language, overwrite=overwrite
    )
    console.print(f"Written: {file}", soft_wrap=True)
    if license is None:
        console.print("[yellow]No license is named: --license apache-2.0, or what the base models and data allow[/]")
    console.print("Look through it, and at recipe.yaml (it names your data's paths), then put it on the hub:")
    console.print(
        f"  hf upload OWNER/NAME {run} . --include README.md --include recipe.yaml --include 'adapter/*'",
        markup=False,
        soft_wrap=True,
    )
