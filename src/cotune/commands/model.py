"""Commands that talk to a tuned model, or carry one in or out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from cotune.commands.shared import Overrides, RunArgument, console_of_rank
from cotune.errors import ServeError

app = typer.Typer()


@app.command(epilog="Example: cotune chat runs/quickstart --image cat.png --prompt 'what color is the shape?'")
def chat(
    run: RunArgument,
    image: Annotated[list[Path] | None, typer.Option(help="a picture to ask about; may be given again")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="a sound to ask about; may be given again")] = None,
    prompt: Annotated[str | None, typer.Option(help="ask once and leave")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 256,
) -> None:
    """Talk to a tuned model; without --prompt, in a conversation."""
    from cotune.messages import Audio, Image
    from cotune.model.loading import load_tuned
    from cotune.run_folder import RunFolder, open_run
    from cotune.serving.chat import Chat
    from cotune.serving.terminal import answer_once, talk

    console = console_of_rank()
    folder, recipe = open_run(run)
    with console.status("Loading"):
        conversation = Chat(load_tuned(recipe, RunFolder(folder.path).adapter), max_new_tokens)
    shown: list[Image | Audio] = [*map(Image, image or []), *map(Audio, audio or [])]
    for medium in shown:
        conversation.show(medium)
    if prompt is not None:
        answer_once(conversation, console, prompt)
    else:
        talk(conversation, console)


@app.command(epilog="Example: cotune serve runs/quickstart, and open http://127.0.0.1:8000")
def serve(
    run: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free")] = 8000,
    host: Annotated[str, typer.Option(help="address; another than this machine's own demands a key")] = "127.0.0.1",
    api_key: Annotated[
        str | None, typer.Option(envvar="COTUNE_API_KEY", help="what clients must show (better by the environment)")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="answers computed at a time")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="requests that may wait for that")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="longest a request may take in all")] = 120.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 1024,
    fold: Annotated[bool, typer.Option(help="fold the adapters into the weights where memory allows")] = True,
) -> None:
    """Serve a tuned model: a web page and an OpenAI-compatible API, with pictures and sounds."""
    console = console_of_rank()
    try:
        from cotune.serving.server import serve_run
    except ImportError as error:
        raise ServeError(f"serving needs more packages ({error}): pip install 'cotune[serve]'") from None
    from cotune.serving.limits import Limits

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)
        console.file.flush()  # a log is read while the server runs

    limits = Limits(rows=rows, queue=queue, seconds=seconds, answer_tokens=max_new_tokens)
    serve_run(run, host=host, port=port, key=api_key, limits=limits, fold=fold, say=say)


@app.command(epilog="Example: cotune import-lavin sqa-llama-7b.pth --recipe lavin-7b --out runs/lavin")
def import_lavin(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a released LaVIN adapter file (.pth)")],
    recipe: Annotated[str, typer.Option(help="the recipe it belongs to: lavin-7b, lavin-13b or a file")],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    overrides: Overrides = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="repeat two slips of the original code, to score as it did")
    ] = False,
) -> None:
    """Bring a released LaVIN adapter into a run folder, to be scored and talked to."""
    from cotune.model.import_lavin import import_lavin as import_file
    from cotune.training.catalogue import find_recipe

    console = console_of_rank()
    found = import_file(file, find_recipe(recipe, overrides or []), out, legacy=legacy)
    console.print(f"{file}: {found.tensors:,} adapter tensors with {found.values:,} values taken")
    for what, number in found.left.items():
        console.print(f"Left out: {number:,} tensors of {what}")
    if legacy:
        console.print(
            "Scored as by the original code, slips included: the first answer token repeats the position of the "
            "prompt's last, and the first picture of a batch routes all of them. Never train with these."
        )
    console.print(
        f"Run folder: {out}. Which base models the file was tuned on is not written in it; take the right ones."
    )
    console.print(f"Next:       {shlex.join(['cotune', 'evaluate', str(out)])}", soft_wrap=True)


@app.command(epilog="Example: cotune fold runs/quickstart --modality image --out folded")
def fold(
    run: RunArgument,
    modality: Annotated[str, typer.Option(help="whose adapters: image, text, audio, audio+image ...")],
    out: Annotated[Path, typer.Option(help="folder to write; new or empty")],
    form: Annotated[
        Literal["checkpoint", "lora"],
        typer.Option("--as", help="a plain model that anything loads, or a PEFT LoRA beside the untouched base"),
    ] = "checkpoint",
) -> None:
    """Write the tuned language model of one modality without adapters, and say how equal it is."""
    from cotune.model.folding import fold_run
    from cotune.progress import table

    console = console_of_rank()
    with console.status("Folding"):
        made = fold_run(run, modality, out, form)
    columns = ["modality", "adapters", "layers", "largest logit", "difference in float32", f"in {made.precision}"]
    differences = [f"{value:.1e}" for value in (made.exact_difference, made.stored_difference)]
    row = [made.modality, str(made.sites), str(made.layers), f"{made.largest_logit:.1f}", *differences]
    console.print(table(f"{run}", columns, [row]))
    console.print(f"Written and checked: {out}", soft_wrap=True)
