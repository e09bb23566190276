"""Commands that look at a data set before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.commands.shared import Overrides, console_of_rank

app = typer.Typer()


DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="a recipe (name or YAML), a data file or a folder")]
ModelOption = Annotated[str | None, typer.Option(help="whose tokenizer and chat template, for a file or folder")]
ChatTemplateOption = Annotated[str | None, typer.Option(help="'chatml', 'instruction' or a template, with --model")]
MediaTokensOption = Annotated[int, typer.Option(min=1, help="tokens a picture or sound takes, with --model")]


@app.command(epilog="Example: cotune check data.json --model runs/llm")
def check(
    data: DataArgument,
    overrides: Overrides = None,
    model: ModelOption = None,
    chat_template: ChatTemplateOption = None,
    media_tokens: MediaTokensOption = 1,
    output: Annotated[Path | None, typer.Option(help="picture to draw, .png or .svg; default beside DATA")] = None,
) -> None:
    """Read a data set as training would, say what it holds, and fail where training would."""
    from cotune.inspection.check import check as check_data
    from cotune.inspection.opened import open_data

    console = console_of_rank()
    with console.status(f"Reading {data}"):
        opened = open_data(data, overrides or [], model=model, chat_template=chat_template, media_tokens=media_tokens)
    check_data(opened, console, output)


@app.command(epilog="Example: cotune show quickstart --sample 17 --ids")
def show(
    data: DataArgument,
    overrides: Overrides = None,
    sample: Annotated[str, typer.Option(help="its id, or its number from 1")] = "1",
    model: ModelOption = None,
    chat_template: ChatTemplateOption = None,
    media_tokens: MediaTokensOption = 1,
    ids: Annotated[bool, typer.Option("--ids", help="list every token with its id")] = False,
) -> None:
    """Print a sample as the model gets it: which tokens carry loss, and where pictures and sounds go."""
    from cotune.inspection.opened import open_data
    from cotune.inspection.show import show as show_sample

    console = console_of_rank()
    with console.status(f"Reading {data}"):
        opened = open_data(data, overrides or [], model=model, chat_template=chat_template, media_tokens=media_tokens)
    show_sample(opened, sample, console, ids=ids)
