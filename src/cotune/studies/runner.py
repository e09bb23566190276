"""Brings every run of a study to its end: finished ones are kept, interrupted ones gone on with, several at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from rich.console import Console

from cotune.errors import STOPPED, CotuneError, StudyError, StudyStoppedError
from cotune.progress import progress
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.studies.one_run import bring_to_end, is_over
from cotune.training.stopping import InterruptedRunError
from cotune.whole_file import write_whole

_POLL_SECONDS = 0.2
Advance = Callable[..., None]


@dataclass
class _Job:
    """A run under way in a process of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def hang_up(self) -> None:
        """Close the run's standard input, which ends it if it is not over yet."""
        if self.process.stdin is not None:
            self.process.stdin.close()


def unfinished(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Return the runs that have something left to do.

    Raises:
        RunFolderError: when a folder holds a run of another recipe.
    """
    left = {}
    for name, recipe in recipes.items():
        run = RunFolder(recipe.folder)
        if run.recipe.exists():
            run.check_recipe(recipe)
        if not is_over(run):
            left[name] = recipe
    return left


def bring_all_to_end(recipes: Mapping[str, Recipe], folder: Path, console: Console, *, jobs: int = 1) -> None:
    """Run what has not run yet, `jobs` runs at once, each writing what it prints to `folder/logs/NAME.log`.

    Several runs at once share the cores evenly; one at a time runs in this process.

    Raises:
        StudyError: when runs failed, after all others are through; or when another process is at work in the folder.
        StudyStoppedError: after Ctrl-C; what is done is kept.
    """
    with _alone_in(folder):
        left = unfinished(recipes)
        problems: list[str] = []
        with progress(console, "Study", len(recipes), "runs", done=len(recipes) - len(left)) as advance:
            run = _one_after_another if jobs == 1 else _side_by_side
            run(left, folder, jobs, advance, problems)
    if problems:
        raise StudyError("runs that failed; the same command tries them again", problems)


def _one_after_another(
    left: Mapping[str, Recipe], folder: Path, jobs: int, advance: Advance, problems: list[str]
) -> None:
    for name, recipe in left.items():
        with _log(folder, name).open("a", encoding="utf-8") as log:
            try:
                bring_to_end(recipe, Console(file=log, width=120, highlight=False))
            except (InterruptedRunError, KeyboardInterrupt):
                raise StudyStoppedError from None
            except CotuneError as error:
                problems.append(f"{name}: {error}")
        advance(1, name)


def _side_by_side(left: Mapping[str, Recipe], folder: Path, jobs: int, advance: Advance, problems: list[str]) -> None:
    waiting, running = list(left.items()), list[_Job]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, recipe = waiting.pop(0)
                running.append(_begin(name, recipe, folder, jobs))
            time.sleep(_POLL_SECONDS)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                job.hang_up()
                job.log.close()
                if job.process.returncode == STOPPED:
                    raise KeyboardInterrupt
                if job.process.returncode:
                    problems.append(f"{job.name}: it ended with status {job.process.returncode}; see {job.log.name}")
                advance(1, job.name)
    except KeyboardInterrupt:
        raise StudyStoppedError from None
    finally:
        _stop(running)


def _begin(name: str, recipe: Recipe, folder: Path, jobs: int) -> _Job:
    """Start a run in a session of its own: Ctrl-C reaches the study alone, which tells the run by its input."""
    file = folder / "recipes" / f"{name}.yaml"
    write_whole(file, recipe.to_yaml())
    log = _log(folder, name).open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, _cores() // jobs))}
    command = [sys.executable, "-m", "cotune.studies.one_run", str(file)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
    )
    return _Job(name, process, log)


def _stop(running: list[_Job]) -> None:
    """Ask the runs under way to keep a snapshot and end, and wait for them."""
    for job in running:
        job.hang_up()
    for job in running:
        job.process.wait()
        job.log.close()


def _log(folder: Path, name: str) -> Path:
    file = folder / "logs" / f"{name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; two studies in one folder would train the same runs."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise StudyError("not begun", [f"another study is at work in {folder}; choose another --output"]) from None
