"""The quickstart: real small weights and data, fetched, tuned together and scored by one command."""

from __future__ import annotations

from rich.console import Console

from cotune.quickstart import ensure
from cotune.run_folder import RunFolder
from cotune.training.baselines import run_baselines
from cotune.training.catalogue import find_recipe
from cotune.training.run import train

ASSETS = ("smollm2-135m-instruct", "efficientnet-lite0", "easy-vqa")


def run_quickstart(console: Console, *, full: bool, seed: int, output: str | None) -> RunFolder:
    """Return the folder of a finished quickstart run; `full` trains the baselines too.

    An earlier run in the same folder is renamed, never replaced.
    """
    overrides = [f"seed={seed}", *([f"output={output}"] if output else [])]
    recipe = find_recipe("quickstart", overrides)
    run = RunFolder(recipe.folder)
    ensure(ASSETS, console)
    moved = run.set_aside()
    if moved:
        console.print(f"The earlier run in {run.path} is kept as {moved}")
    result = train(recipe, console)
    if full:
        run_baselines(recipe, result, console)
    return run
