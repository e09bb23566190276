"""Commands that score finished runs and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.commands.shared import RunArgument, console_of_rank, told_when_stopped

app = typer.Typer()


@app.command(epilog="Example: cotune evaluate runs/lavin --task science-qa --data ScienceQA --limit 500")
def evaluate(
    run: RunArgument,
    task: Annotated[str | None, typer.Option(help="see `cotune tasks`; default the recipe's")] = None,
    data: Annotated[Path | None, typer.Option(help="the task's official files; default the recipe's test set")] = None,
    media: Annotated[Path | None, typer.Option(help="folder of the pictures or sounds, where they lie apart")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="score only the first N questions")] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write; default RUN/evaluation/TASK")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace other predictions in that folder")] = False,
    options: Annotated[bool, typer.Option("--options", help="also take the likeliest lettered option")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="questions at once; default the recipe's")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="longest answer, in tokens")] = None,
    shown: Annotated[int, typer.Option(min=0, help="answers on the page to look at; 0 for no page")] = 200,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="do not compare the questions with the training data")
    ] = False,
) -> None:
    """Score a finished run; the same command goes on where it was stopped."""
    from cotune.ranks import leave
    from cotune.run_folder import RunFolder
    from cotune.training.scoring import Wanted, evaluate_run

    wanted = Wanted(
        task=task,
        data=data,
        media=media,
        limit=limit,
        out=out,
        overwrite=overwrite,
        options=options,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        shown=shown,
        compare_with_training=not skip_overlap,
    )
    with told_when_stopped(lambda: "Stopped; what was answered is kept, and the same command goes on from there"):
        evaluate_run(RunFolder(run), console_of_rank(), wanted)
    leave()


@app.command("tasks", epilog="Example: cotune tasks")
def list_tasks() -> None:
    """List what `cotune evaluate --task` knows."""
    from cotune.evaluation.tasks import TASKS
    from cotune.progress import table

    rows = [
        [name, task.about, task.main, ", ".join(task.files) or "the recipe's test set"] for name, task in TASKS.items()
    ]
    grid = table("Tasks", ["name", "scores", "main score", "looked for in --data"], rows)
    for column in grid.columns[1:]:
        column.justify, column.overflow = "left", "fold"
    console_of_rank().print(grid)


@app.command(epilog="Example: cotune compare runs/quickstart runs/quickstart/baselines/lora")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="folders with predictions of one task")],
    task: Annotated[str | None, typer.Option(help="where runs have answers to several tasks")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="how often the test set is drawn anew")] = 1000,
    out: Annotated[Path | None, typer.Option(help="folder for table and picture; default FIRST/compare")] = None,
) -> None:
    """Compare runs on one test set: every metric with its interval, and the differences from the first run."""
    from cotune.reporting.run_comparison import compare_runs, print_comparison, write_comparison

    console = console_of_rank()
    found = compare_runs(runs, console, resamples=resamples, task=task)
    print_comparison(found, console)
    for file in write_comparison(found, out or runs[0] / "compare"):
        console.print(f"Written: {file}", soft_wrap=True)


@app.command(epilog="Example: cotune cost runs/quickstart runs/quickstart/baselines/lora")
def cost(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of finished runs")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, in bytes, seconds and operations")] = False,
) -> None:
    """Say what runs cost: parameters, storage, memory, hours, operations; beside what the papers report."""
    import json

    from cotune.progress import table
    from cotune.training.run_costs import COLUMNS, cost_notes, cost_rows, costs_of

    console = console_of_rank()
    with console.status("Counting operations"):
        costs = costs_of(runs)
    if as_json:
        typer.echo(json.dumps([found.to_dict() for found in costs], indent=2))
        return
    console.print(table("What tuning cost", COLUMNS, cost_rows(costs)))
    for note in cost_notes(costs):
        console.print(note, markup=False)


@app.command("text-kept", epilog="Example: cotune text-kept runs/quickstart --truthful-qa data/TruthfulQA --limit 100")
def text_kept(
    run: RunArgument,
    text: Annotated[Path | None, typer.Option(help="a text file; default one written for cotune")] = None,
    truthful: Annotated[
        Path | None, typer.Option("--truthful-qa", help="folder with mc_task.json or TruthfulQA.csv")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="ask only the first N questions")] = None,
) -> None:
    """Say what tuning did to text: the loss on a text and TruthfulQA, before and after, on every path."""
    from cotune.evaluation.text_kept import COLUMNS, measure_text_kept, write_text_kept
    from cotune.evaluation.text_loss import read_text
    from cotune.evaluation.truthful_qa import read_truthful_qa
    from cotune.progress import table
    from cotune.run_folder import RunFolder

    console, folder = console_of_rank(), RunFolder(run)
    questions = read_truthful_qa(truthful)[:limit] if truthful else []
    found = measure_text_kept(folder, read_text(None if text is None else str(text)), questions, console)
    console.print(table(f"Text kept: {run}", COLUMNS, found.rows()))
    for note in found.notes:
        console.print(note, markup=False)
    console.print(f"Written: {write_text_kept(found, folder)}", soft_wrap=True)


@app.command(epilog="Example: cotune judge runs/base runs/tuned --url http://localhost:8000/v1 --model my-judge")
def judge(
    runs: Annotated[tuple[Path, Path], typer.Argument(metavar="RUN RUN", help="folders with answers to one test set")],
    url: Annotated[str, typer.Option(help="address of an OpenAI-compatible judge, ending in /v1")],
    model: Annotated[str, typer.Option(help="the judge's name there")],
    key_from: Annotated[str | None, typer.Option(help="environment variable that holds the judge's key")] = None,
    contexts: Annotated[Path | None, typer.Option(help="JSON lines {id, text}: what the pictures show")] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML or JSON with the rules, such as LLaVA's rule.json")] = None,
    max_requests: Annotated[int, typer.Option(min=1, help="ask no more often than this")] = 1000,
    max_tokens: Annotated[int, typer.Option(min=1, help="spend no more tokens than this")] = 1_000_000,
    task: Annotated[str | None, typer.Option(help="where runs have answers to several tasks")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="judge only the first N questions")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the verdicts; default SECOND/judged")] = None,
) -> None:
    """Let a judge rate two runs' answers in both orders; the same command goes on after an interruption."""
    import os

    from cotune.evaluation.judge_client import Judge, JudgeError
    from cotune.reporting.judged import judge_runs, print_standings

    console, key = console_of_rank(), None
    if key_from is not None:
        key = os.environ.get(key_from)
        if not key:
            raise JudgeError(f"--key-from: the environment variable {key_from} is not set")
    asked = Judge(url, model, key, max_requests, max_tokens)
    found = judge_runs(
        runs, asked, out or runs[1] / "judged", console, rules=rules, contexts=contexts, task=task, limit=limit
    )
    print_standings(found, runs, console)


@app.command(
    "lm-eval",
    epilog="Example: cotune lm-eval -- run --model cotune --model_args run=runs/quickstart,path=text --tasks arc_easy",
)
def lm_eval(
    arguments: Annotated[list[str], typer.Argument(metavar="-- ARGUMENT...", help="what lm-eval's own command takes")],
) -> None:
    """Run lm-eval with the model `cotune`, which takes run=FOLDER and path=text or another (needs cotune[lm-eval])."""
    from cotune.errors import ModelError

    try:
        from cotune.evaluation.harnesses.lm_eval_model import run_lm_eval
    except ModuleNotFoundError as error:
        raise ModelError(f"{error}; install it by: pip install 'cotune[lm-eval]'") from None
    run_lm_eval(arguments)
