"""Commands that train, or say what training would take."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.commands.shared import Overrides, console_of_rank, told_when_stopped

if TYPE_CHECKING:
    from rich.console import Console

    from cotune.run_folder import RunFolder

app = typer.Typer()


@app.command(epilog="Example: cotune quickstart --full")
def quickstart(
    full: Annotated[bool, typer.Option("--full", help="train the four baselines too")] = False,
    seed: Annotated[int, typer.Option(help="random seed")] = 0,
    output: Annotated[str | None, typer.Option(help="run folder; default runs/quickstart")] = None,
) -> None:
    """Fetch real small weights and data, tune them together, score the result."""
    from cotune.training.quickstart import run_quickstart

    console = console_of_rank()
    run = run_quickstart(console, full=full, seed=seed, output=output)
    _finish(run, console)


@app.command(
    epilog="Example: cotune train quickstart training.steps=500 output=runs/mine. "
    "On several GPUs: torchrun --nproc_per_node 2 -m cotune train quickstart"
)
def train(
    recipe: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with an interrupted run")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in the output folder")] = False,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="with --resume: go on although recipe or data changed; recorded")
    ] = False,
) -> None:
    """Tune a model by a recipe.

    Ctrl-C or SIGTERM ends the step, keeps a snapshot and exits with status 130 or 143; --resume goes on from there.
    """
    from cotune.ranks import is_main, leave
    from cotune.run_folder import RunFolder
    from cotune.training.catalogue import find_recipe

    console = console_of_rank()
    found = find_recipe(recipe, overrides or [])
    run = RunFolder(found.folder)
    if overwrite and not resume and is_main():
        run.clear()
    from cotune.training.run import train as train_recipe

    with told_when_stopped(lambda: _stopped_text(run)):
        train_recipe(found, console, resume=resume, allow_changed=allow_changed)
    if is_main():
        _finish(run, console)
    leave()


@app.command(epilog="Example: cotune estimate lavin-7b training.micro_batch_size=2 --tflops 150 --price-per-hour 2")
def estimate(
    recipe: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    overrides: Overrides = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="length of a sample; default 512 or data.max_tokens, or what --probe sees")
    ] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=1, help="how many carry loss; default a quarter")] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="10^12 operations a second kept up; gives hours")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="take three real steps here and keep nothing; gives hours")] = (
        False
    ),
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="of the machine; gives the cost, with --probe or --tflops")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, in bytes and operations")] = False,
) -> None:
    """Say what a recipe will take: parameters, memory, operations, hours and cost.

    Nothing is downloaded and no data is read, except with --probe.
    """
    import json
    from dataclasses import asdict

    from cotune.errors import RecipeError
    from cotune.progress import make_console
    from cotune.training.catalogue import find_recipe
    from cotune.training.duration import from_operations
    from cotune.training.duration import probe as take_steps
    from cotune.training.estimate import estimate as estimate_recipe
    from cotune.training.estimate_tables import print_estimate

    if price_per_hour is not None and not probe and tflops is None:
        raise RecipeError("estimate", ["--price-per-hour needs to know the hours: add --probe or --tflops"])
    recipe_found = find_recipe(recipe, overrides or [])
    console = make_console(quiet=as_json)
    taken = take_steps(recipe_found, console, price_per_hour) if probe else None
    if taken is not None:  # the data is known now, and need not be assumed
        tokens, answer_tokens = tokens or taken.tokens, answer_tokens or taken.answer_tokens
    found = estimate_recipe(recipe_found, tokens=tokens, answer_tokens=answer_tokens)
    reckoned = None if tflops is None else from_operations(found, tflops, price_per_hour)
    times = [time for time in (reckoned, taken) if time is not None]
    if as_json:
        shown = {time.source: asdict(time) | {"cost": time.cost} for time in times}
        typer.echo(json.dumps(found.to_dict(tflops) | {"time": shown}, indent=2))
    else:
        print_estimate(found, console, times)


@app.command(epilog="Example: cotune study quickstart --rules constant,feedforward,self-tuning --rates 1:1,10:1,1:10")
def study(
    recipe: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    overrides: Overrides = None,
    rules: Annotated[
        str, typer.Option(help="rules to compare, options after colons: feedforward:strength=1")
    ] = "constant,feedforward,self-tuning",
    rates: Annotated[
        str, typer.Option(help="starting rates, features:language, as multiples of the recipe's")
    ] = "1:1,10:1,1:10",
    seeds: Annotated[str, typer.Option(help="one pair of runs for each")] = "0,1,2",
    grid: Annotated[str, typer.Option(help="multiples tried for either side with constant rates; '' for none")] = "",
    measure_every: Annotated[str, typer.Option(help="further intervals of measuring kappa, for example 1,5,25")] = "",
    steps: Annotated[int | None, typer.Option(min=1, help="length of a run; default the recipe's")] = None,
    evaluate_every: Annotated[int | None, typer.Option(min=1, help="steps between held-out losses")] = None,
    output: Annotated[Path | None, typer.Option(help="folder; default runs/study-NAME")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at once; they share the cores")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say how many runs there are, and leave")] = False,
) -> None:
    """Compare coordination rules by paired runs; the same command goes on after an interruption."""
    from cotune.studies.choices import read_settings
    from cotune.training.catalogue import find_recipe

    settings = read_settings(
        rules=rules,
        rates=rates,
        seeds=seeds,
        grid=grid,
        measure_every=measure_every,
        steps=steps,
        evaluate_every=evaluate_every,
    )
    found = find_recipe(recipe, overrides or [])
    folder = output or Path("runs") / f"study-{found.name}"
    from cotune.studies.plan import make_plan
    from cotune.studies.study import announce, run_study

    if dry_run:
        announce(make_plan(found, settings, folder), console_of_rank())
    else:
        run_study(found, settings, folder, console_of_rank(), jobs=jobs)


def _finish(run: RunFolder, console: Console) -> None:
    """Draw the pictures of a run, print its table, and say where everything lies and how to try it."""
    from cotune.reporting.curves import draw_run
    from cotune.training.baselines import result_table
    from cotune.training.foretold import sentence
    from cotune.training.loop import PROBLEMS

    result = run.read_result()
    draw_run(run)
    if result[result["main_score"]] is not None:
        console.print(result_table(result))
    if result["text_kl"] is not None:
        console.print(f"Text path against the base model: KL {result['text_kl']:.2e}. {result['text_reply']}")
        console.print(_text_loss_line(result["text_loss"]))
    memory = result["peak_memory_bytes"] / 2**30
    console.print(
        f"{result['steps']} steps in {result['seconds']:.0f} s, {result['tokens_per_second']:.0f} tokens/s, "
        f"{result['trainable_parameters']:,} trained parameters, peak memory {memory:.1f} GiB"
    )
    if told := sentence(result["estimate"]):
        console.print(told)
    for name, number in result["counts"].items():
        if name in PROBLEMS:
            console.print(f"[yellow]{name}: {number}[/]")
    console.print(f"Run folder: {run.path}")
    console.print(f"Report:     {shlex.join(['cotune', 'report', str(run.path)])}", soft_wrap=True)
    console.print(f"Try it:     {_chat_line(run)}", soft_wrap=True)


def _stopped_text(run: RunFolder) -> str:
    """Return what to tell who stopped a run outside of its steps, while it was prepared or scored."""
    if not run.snapshots.is_dir():
        return "Stopped before the first snapshot; nothing is lost but what was prepared"
    return f"Stopped; what was answered is kept. Go on with: cotune train {run.recipe} --resume"


def _text_loss_line(loss: dict[str, Any]) -> str:
    """Return the loss on held-out text before and after, for every path."""
    after = ", ".join(f"{value:.3f} on the {name} path" for name, value in loss["after"].items())
    return f"Held-out text: loss {loss['before']:.3f} before; {after} ({loss['tokens']} tokens)"


def _chat_line(run: RunFolder) -> str:
    """Return a chat command that works as it stands: with a picture and question of the test set, when there is one."""
    from cotune.evaluation.tasks import read_predictions

    command = ["cotune", "chat", str(run.path)]
    predictions = run.path / "predictions.jsonl"
    for item in read_predictions(predictions)[:1] if predictions.exists() else []:
        command += [part for path in item.media[:1] for part in ("--image", path)]
        command += ["--prompt", item.question]
    return shlex.join(command)
