"""One run of a study, begun or gone on with; `python -m cotune.studies.one_run RECIPE` does it in its own process.

That process ends, with a snapshot, when its standard input does: so it never outlives the study that holds the other
end, however that ends, and no run is ever under way twice.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from threading import Thread

from filelock import FileLock
from rich.console import Console

from cotune.errors import STOPPED, CotuneError, DivergedError
from cotune.progress import make_console
from cotune.recipe import Recipe
from cotune.recipe.reading import load_recipe
from cotune.run_folder import RunFolder
from cotune.training.run import train
from cotune.whole_file import write_whole

_DIVERGED = "diverged.json"


def diverged(run: RunFolder) -> bool:
    """Return whether a run ended because its loss was no number any more; trying again would end the same way."""
    return (run.path / _DIVERGED).exists()


def is_over(run: RunFolder) -> bool:
    """Return whether nothing is left to do for a run."""
    return run.result.exists() or diverged(run)


def bring_to_end(recipe: Recipe, console: Console) -> None:
    """Train a run to its end, from its newest snapshot where it was begun before; that it diverged is recorded.

    Raises:
        CotuneError: for anything else that ended it.
    """
    run = RunFolder(recipe.folder)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    # Waits: the run may still be writing the last snapshot of a study that was killed.
    with FileLock(run.path.with_name(f".{run.path.name}.lock")):
        if is_over(run):
            return
        try:
            train(recipe, console, resume=run.recipe.exists())
        except DivergedError as error:
            write_whole(run.path / _DIVERGED, json.dumps({"error": str(error)}) + "\n")


def main() -> int:
    """Run the recipe named on the command line and return the exit status."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    Thread(target=_end_with_the_study, daemon=True).start()
    try:
        bring_to_end(load_recipe(Path(sys.argv[1])), make_console())
    except CotuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return STOPPED
    return 0


def _end_with_the_study() -> None:
    """Wait for the end of the standard input, then do what Ctrl-C does."""
    while os.read(0, 1):  # not by sys.stdin, whose lock would stand in the way when the program ends
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
