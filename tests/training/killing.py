"""Runs a recipe to its end although it is killed again and again: `python -m tests.training.killing RECIPE KILLS SEED`.

Python and its libraries are loaded once; every try is a process of its own, forked from there, and killed by SIGKILL:
half of them at a random moment of their steps, half while a snapshot is being written. Prints how many of the kills
left a half-written snapshot behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from cotune.recipe import Recipe
from cotune.recipe.reading import load_recipe
from cotune.run_folder import RunFolder
from cotune.training.estimate import estimate
from cotune.training.run import prepare_training, train

_PATIENCE = 120.0


def begin(recipe: Recipe) -> int:
    """Begin or go on with a run in a process of its own and return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with Path(f"{recipe.folder}.log").open("a") as log:
            train(recipe, Console(file=log), resume=RunFolder(recipe.folder).recipe.exists())
        status = 0
    finally:
        os._exit(status)


def rows(run: RunFolder) -> int:
    return run.trace.read_bytes().count(b'"event": "step"') if run.trace.exists() else 0


def half_written(run: RunFolder) -> bool:
    return any(not path.name.endswith(".old") for path in run.snapshots.glob(".step-*"))


def wait_for_a_moment(run: RunFolder, child: int, chance: random.Random, *, writing: bool) -> None:
    """Wait until the run has taken a step or more, then for a random moment or for a snapshot under way."""
    give_up = time.monotonic() + _PATIENCE
    start = rows(run)
    wanted = start + chance.randint(1, 4)
    while time.monotonic() < give_up and os.waitpid(child, os.WNOHANG) == (0, 0):
        now = rows(run)
        if now < start:  # the trace was cut to the snapshot
            start, wanted = now, now + chance.randint(1, 4)
        if now >= wanted and (not writing or half_written(run)):
            break
        time.sleep(0.0005)
    if not writing:
        time.sleep(chance.uniform(0.0, 0.05))


def main() -> None:
    recipe, kills, chance = load_recipe(Path(sys.argv[1])), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    run, halves = RunFolder(recipe.folder), 0
    prepare_training(recipe, Console(quiet=True))  # imports what every try would otherwise import for itself
    estimate(recipe, tokens=40)
    for number in range(kills):
        child = begin(recipe)
        wait_for_a_moment(run, child, chance, writing=number % 2 == 1)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"try {number} was over before it was killed"
        halves += half_written(run)
    _, status = os.waitpid(begin(recipe), 0)
    print(json.dumps({"status": status, "half_written": halves}))


if __name__ == "__main__":
    main()
