"""The further tasks of a recipe (`evaluation.tasks`): read and checked before training, made ready to be answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cotune.errors import CotuneError, ManyProblemsError, ModelError, RecipeError, nearest
from cotune.evaluation.overlap import Overlap, tell_overlap
from cotune.evaluation.runner import unanswered
from cotune.evaluation.tasks import TASKS, option_prefix, score
from cotune.messages import Sample
from cotune.recipe import Recipe
from cotune.recipe.evaluation import ScoredTask
from cotune.training.media_features import prepare_media
from cotune.training.model_and_data import Prepared
from cotune.training.prepare import Samples, check_encoders, media_paths, read_test
from cotune.training.task_recipe import recipe_for

_MOST = 4  # problems of one task that are named, so that every task is heard


@dataclass(frozen=True)
class Benchmark:
    """An entry of `evaluation.tasks` with its samples; `recipe` is the run's, with the entry's task and data."""

    entry: ScoredTask
    recipe: Recipe
    samples: Samples


@dataclass(frozen=True)
class ReadyBenchmark:
    """A benchmark beside the model, its media encoded; `overlap` is what of it is trained on (the first process's)."""

    entry: ScoredTask
    prepared: Prepared
    overlap: Overlap | None


def read_benchmarks(recipe: Recipe, console: Console) -> list[Benchmark]:
    """Return the tasks of a recipe with their samples.

    Raises:
        RecipeError: naming everything that keeps any of them from being scored.
    """
    problems: list[str] = []
    found: list[Benchmark] = []
    for place, entry in enumerate(recipe.evaluation.tasks):
        with _noting(problems, f"evaluation.tasks.{place} ({entry.label})"):
            found.append(_read(recipe, entry, console))
    if problems:
        raise RecipeError("tasks that cannot be scored", problems)
    return found


def _read(recipe: Recipe, entry: ScoredTask, console: Console) -> Benchmark:
    if entry.task not in TASKS:
        raise ModelError(f"no task '{entry.task}'{nearest(entry.task, list(TASKS))}")
    own = recipe_for(
        recipe,
        task=entry.task,
        data=None if entry.data is None else Path(entry.data),
        media=None if entry.media is None else Path(entry.media),
        limit=entry.limit,
        max_new_tokens=entry.max_new_tokens,
    )
    if entry.options:
        option_prefix(entry.task)
    samples = read_test(own.data, limit=own.evaluation.limit, console=console)
    check_encoders(samples, recipe)
    score(entry.task, unanswered(samples.test))
    return Benchmark(entry, own, samples)


@contextmanager
def _noting(problems: list[str], where: str) -> Iterator[None]:
    """Add what is wrong to the problems, each with where it is."""
    try:
        yield
    except ManyProblemsError as error:
        shown = error.problems if len(error.problems) <= _MOST else error.problems[: _MOST - 1]
        problems += [f"{where}: {error.title}: {problem}" for problem in shown]
        if len(shown) < len(error.problems):
            problems.append(f"{where}: ... and {len(error.problems) - len(shown):,} more like these")
    except (CotuneError, OSError) as error:
        problems.append(f"{where}: {error}")


def make_ready(prepared: Prepared, benchmarks: Sequence[Benchmark]) -> list[ReadyBenchmark]:
    """Return the benchmarks with their media encoded, after what of them is trained on was said."""
    return [_ready(prepared, benchmark) for benchmark in benchmarks]


def _ready(prepared: Prepared, benchmark: Benchmark) -> ReadyBenchmark:
    label, samples, processes = benchmark.entry.label, benchmark.samples, prepared.processes
    processes.check_equal(f"the number of questions of {label}", len(samples.test))
    paths, data = media_paths(samples.test), prepared.recipe.data
    loaders = prepare_media(prepared.model, paths, data, prepared.console, processes)
    own = replace(prepared, recipe=benchmark.recipe, samples=samples, loaders=loaders)
    train: Sequence[Sample] = prepared.samples.all_train
    prepared.console.print(f"Task:      {label}, {len(samples.test):,} questions", markup=False)
    overlap = tell_overlap(train, samples.test, prepared.console) if processes.main else None
    return ReadyBenchmark(benchmark.entry, own, overlap)
