"""One run from recipe to result: prepare, tune, choose on validation, score the test once, write it all down."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from rich.console import Console

from cotune.errors import RecipeError
from cotune.evaluation.runner import unanswered
from cotune.evaluation.tasks import check_task, score
from cotune.evaluation.text_loss import read_text
from cotune.model.checkpoint import check_settings, load_checkpoint, save_checkpoint
from cotune.model.loading import build_model
from cotune.recipe import Legacy, Recipe
from cotune.run_folder import RunFolder
from cotune.trace import Trace, UnwrittenTrace, cut_trace, read_trace
from cotune.training.benchmarks import make_ready, read_benchmarks
from cotune.training.coordination import check_coordination
from cotune.training.foretold import compare
from cotune.training.loop import TrainingLoop
from cotune.training.media_features import prepare_media, standardize_connectors
from cotune.training.model_and_data import Prepared
from cotune.training.peak_memory import peak_memory_bytes
from cotune.training.prepare import (
    Samples,
    check_encoders,
    leave_out_frozen_text,
    make_batches,
    media_paths,
    read_samples,
    read_test,
)
from cotune.training.processes import Processes, start_processes
from cotune.training.random_state import seed_everything
from cotune.training.rehearsal import check_template
from cotune.training.result import finished_result
from cotune.training.same_run import (
    check_same_data,
    check_same_recipe,
    count_resume,
    course,
    record_beginning,
    record_changes,
)
from cotune.training.sharding import check_sharding, is_sharded, shard_language_model
from cotune.training.startup import announce
from cotune.training.stop_record import recorded_stop
from cotune.training.task_scoring import TaskScoring
from cotune.training.trackers import check_trackers, tracked
from cotune.training.validation import make_validation


def prepare_training(recipe: Recipe, console: Console) -> Prepared:
    """Return the fresh model and the data of a recipe.

    Data are read and checked before any weight is loaded: a bad line costs seconds, not a download.
    """
    return prepare_model(recipe, read_training(recipe, console), console)


def read_training(recipe: Recipe, console: Console) -> Samples:
    """Return the checked data of a recipe that can be trained."""
    if recipe.model.legacy != Legacy():
        raise RecipeError("not trained", ["model.legacy: for scoring released adapters only; leave it out to train"])
    check_task(recipe.evaluation.task)
    read_text(recipe.evaluation.text_file)
    check_coordination(recipe, start_processes())
    check_sharding(recipe)
    check_trackers(recipe.training.trackers)
    samples = read_samples(recipe.data, recipe.seed, test_limit=recipe.evaluation.limit, console=console)
    check_encoders(samples, recipe)
    for asked in (samples.validation[: recipe.evaluation.validation_limit], samples.test):
        # What a task cannot score stops a run now, not when it has been tuned and has answered.
        score(recipe.evaluation.task, unanswered(asked))
    leave_out_frozen_text(samples, recipe)
    return samples


def prepare_model(recipe: Recipe, samples: Samples, console: Console) -> Prepared:
    """Return the fresh model of a recipe beside its data, media encoded."""
    seed_everything(recipe.seed)
    prepared = _prepare(recipe, samples, console)
    check_template(samples, prepared.model.template, recipe.data)
    if recipe.model.connector.standardize:
        standardize_connectors(prepared.model, prepared.loaders, media_paths(samples.all_train))
    return prepared


def prepare_scoring(run: RunFolder, recipe: Recipe, console: Console) -> Prepared:
    """Return a finished run's model and its test data."""
    check_task(recipe.evaluation.task)
    check_settings(recipe, run.adapter)
    samples = read_test(recipe.data, limit=recipe.evaluation.limit, console=console)
    check_encoders(samples, recipe)
    score(recipe.evaluation.task, unanswered(samples.test))
    prepared = _prepare(recipe, samples, console)
    load_checkpoint(prepared.model, run.adapter)
    return prepared


def _prepare(recipe: Recipe, samples: Samples, console: Console) -> Prepared:
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    processes = start_processes()
    _check_processes(recipe, samples, processes)
    with console.status("Loading models"):
        sharded = is_sharded(recipe, processes)
        model = build_model(recipe, torch.device("cpu") if sharded else processes.device)
        if sharded:
            shard_language_model(model, processes)
    loaders = prepare_media(model, media_paths(samples.everything), recipe.data, console, processes)
    return Prepared(recipe, model, samples, loaders, console, processes)


def _check_processes(recipe: Recipe, samples: Samples, processes: Processes) -> None:
    """Check that all processes are about to do the same, and that there is work for each.

    Raises:
        RecipeError: when a batch has fewer samples than there are processes.
        OtherRankError: when processes have other recipes or data.
    """
    processes.check_equal("the recipe", recipe.to_yaml())
    processes.check_equal("the number of samples", dict(samples.counts))
    if recipe.training.batch_size < processes.size:
        raise RecipeError(
            "too many processes",
            [
                f"training.batch_size ({recipe.training.batch_size}) is the number of samples of all {processes.size} "
                "processes together; raise it, or start fewer"
            ],
        )


def train(recipe: Recipe, console: Console, *, resume: bool = False, allow_changed: bool = False) -> dict[str, Any]:
    """Tune a model by a recipe and return what `result.json` holds.

    With `resume` an interrupted run goes on, to the same bits it would have ended with. It is refused when recipe or
    data have changed since; `allow_changed` takes such a change and records it.

    Raises:
        CotuneError: for anything the user can mend; work done so far is in the newest snapshot.
    """
    run, processes = RunFolder(recipe.folder), start_processes()
    changed: list[str] = []
    processes.on_main(
        lambda: (
            changed.extend(check_same_recipe(run, recipe, allow_changed=allow_changed)) if resume else run.check_free()
        )
    )
    started = time.monotonic()
    samples = read_training(recipe, console)
    if resume:
        processes.on_main(lambda: changed.extend(check_same_data(run, recipe, samples, allow_changed=allow_changed)))
    benchmarks = read_benchmarks(recipe, console)
    held_before = peak_memory_bytes()
    prepared = prepare_model(recipe, samples, console)
    validation = make_validation(prepared)
    if not resume:
        # Made only now: a run that could not start leaves no folder in the way of the next try.
        processes.on_main(lambda: _begin(run, recipe, samples))
    batches = make_batches(recipe, prepared.samples, prepared.model)
    loop = TrainingLoop(recipe, prepared.model, batches, prepared.loaders, run, console, processes)
    if resume:
        loop.resume()
        console.print(f"Going on after step {loop.step}")
        processes.on_main(lambda: _go_on(run, recipe, samples, changed, loop, console))
    with _trace(run, processes) as trace, tracked(trace, recipe), recorded_stop(trace, loop):
        found = announce(prepared, loop, None if loop.snapshots.trace_size else trace)
        tasks = TaskScoring(run, prepared.model, make_ready(prepared, benchmarks))
        loop.run(trace, validation, tasks)
        counts = prepared.samples.counts + batches.counts() + loop.counts()
        trace.write("counts", loop.step, **counts)
        about = {"step": loop.step, "name": recipe.name}
        processes.on_main(lambda: save_checkpoint(prepared.model, run.adapter, about))
        peak = peak_memory_bytes()
        result = finished_result(prepared, loop, run, trace, tasks)
        result["estimate"] = compare(
            found,
            held_before=held_before,
            peak=peak,
            on_gpu=torch.cuda.is_available(),
            tokens=loop.costs.tokens,
            steps=loop.step,
            seconds=loop.costs.seconds,
        )
        result |= course(run)
        result["wall_seconds"] = round(time.monotonic() - started, 1)
        trace.write("end", loop.step, wall_seconds=result["wall_seconds"])
    processes.on_main(lambda: _finish(run, result))
    return result


def _begin(run: RunFolder, recipe: Recipe, samples: Samples) -> None:
    """Make the folder of a new run."""
    run.create(recipe)
    record_beginning(run, recipe, samples)


def _go_on(
    run: RunFolder, recipe: Recipe, samples: Samples, changed: list[str], loop: TrainingLoop, console: Console
) -> None:
    """Bring the folder of an interrupted run to where its snapshot was taken, and record what is not as it was."""
    count_resume(run)
    if changed:
        console.print(f"[yellow]Changed since the run was begun: {'; '.join(changed)}[/]")
        record_changes(run, recipe, samples, changed, loop.step)
    cut_trace(run.trace, loop.snapshots.trace_size)


def _trace(run: RunFolder, processes: Processes) -> Trace:
    """Return the trace of a run, which one process writes."""
    kind = Trace if processes.main else UnwrittenTrace
    return kind(run.trace, seconds_before=_seconds_before(run))


def _finish(run: RunFolder, result: dict[str, Any]) -> None:
    run.write_result(result)
    shutil.rmtree(run.snapshots, ignore_errors=True)  # nothing is left to resume


def _seconds_before(run: RunFolder) -> float:
    rows = list(read_trace(run.trace)) if run.trace.exists() else []
    return float(rows[-1]["seconds"]) if rows else 0.0
