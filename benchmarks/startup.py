"""Seconds of `cotune --help` and `import cotune`, and from `cotune train quickstart` to its first step, part by part.

Every round starts fresh processes on files that were read before (the first round does not count). The weights, the
data and the encoded pictures lie in the cache already. About four minutes on two cores.

    python benchmarks/startup.py
    python benchmarks/startup.py --quick
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cotune

# The functions of `cotune.training.run` that are timed, and what they are called in the result.
PARTS = {
    "read_training": "data read and checked",
    "build_model": "weights read, model built",
    "prepare_media": "features of all pictures fetched",
    "check_template": "chat template checked",
    "standardize_connectors": "connector's statistics",
    "make_validation": "held-out set prepared",
    "announce": "estimate, overlap with the test set, table",
}
IMPORTS, STEP, REST = "Python and its imports", "first step", "the rest"
_OUTPUT, _STARTED = "COTUNE_STARTUP_OUTPUT", "COTUNE_STARTUP_STARTED"


def child(arguments: Sequence[str]) -> None:
    """Run a training command until its first step is taken, write the seconds of every part, and leave."""
    from cotune import cli
    from cotune.training import run
    from cotune.training.loop import TrainingLoop

    started = float(os.environ[_STARTED])
    spent = {IMPORTS: time.time() - started}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            begun = time.time()
            try:
                return work(*given, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.time() - begun

        return call

    for function, name in PARTS.items():
        setattr(run, function, timed(name, getattr(run, function)))
    step = timed(STEP, TrainingLoop._one_step)

    def first_step(self: TrainingLoop) -> None:
        step(self)
        total = time.time() - started
        found = {"total": total} | spent | {REST: total - sum(spent.values())}
        Path(os.environ[_OUTPUT]).write_text(json.dumps(found), encoding="utf-8")
        os._exit(0)

    TrainingLoop._one_step = first_step  # type: ignore[method-assign, assignment]
    sys.argv = ["cotune", *arguments]
    cli.main()


def first_step_of(arguments: Sequence[str]) -> dict[str, float]:
    """Return the seconds from starting a training command to the end of its first step, in all and by part."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "parts.json"
        told = {_OUTPUT: str(output), _STARTED: str(time.time())}
        command = [sys.executable, __file__, "--child", *arguments, f"output={folder}/run"]
        done = subprocess.run(command, env=_environment() | told, capture_output=True, text=True)
        if not output.exists():
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        found: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))
        return found


def seconds_of_process(*arguments: str) -> float:
    """Return the seconds a fresh Python takes for some arguments; raises when it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=_environment(), check=True, capture_output=True)
    return time.perf_counter() - started


def _environment() -> dict[str, str]:
    """Return an environment in which a child imports the cotune that this process has."""
    source = str(Path(cotune.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}


def measure(
    training: Sequence[str], rounds: int, training_rounds: int
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return the seconds of the short commands by round, and those of a training command's parts by round."""
    from measuring import take_turns

    ways = {
        "import cotune": lambda: seconds_of_process("-c", "import cotune"),
        "cotune --help": lambda: seconds_of_process("-m", "cotune", "--help"),
        "python -c pass": lambda: seconds_of_process("-c", "pass"),
    }
    take_turns(ways, 1)
    short = take_turns(ways, rounds)
    parts = [first_step_of(training) for _ in range(training_rounds + 1)][1:]
    return short, parts


def run(training: Sequence[str], *, rounds: int, training_rounds: int, output: Path | None) -> dict[str, Any]:
    """Measure, print the tables, write the result and return it."""
    from measuring import medians, result, write

    from cotune.progress import make_console, table

    short, parts = measure(training, rounds, training_rounds)
    seconds = medians(short)
    names = dict.fromkeys(name for found in parts for name in found)
    steps = {name: statistics.median(found.get(name, 0.0) for found in parts) for name in names}
    ratios = {
        "help_seconds": seconds["cotune --help"],
        "import_seconds": seconds["import cotune"],
        "first_step_seconds": steps["total"],
    }
    about = {
        "command": ["cotune", "train", *training[1:]],
        "parts_seconds": steps,
        "bare_python_seconds": seconds["python -c pass"],
    }
    found = result("startup", ratios, **about, rounds={"short": short, "training": parts})
    console = make_console()
    console.print(table("Starting", ["", "seconds"], [[name, f"{value:.3f}"] for name, value in seconds.items()]))
    title = f"cotune {' '.join(training)}, to the first step"
    console.print(table(title, ["", "seconds"], [[name, f"{value:.2f}"] for name, value in steps.items()]))
    console.print(f"{write(found, output)} written")
    return found


def main() -> None:
    """Read the command line and run."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    from measuring import ASSETS, command, read

    from cotune.progress import make_console
    from cotune.quickstart import ensure

    parser = command(__doc__, rounds=9)
    arguments = read(parser)
    ensure(ASSETS, make_console())
    training = ["train", "quickstart", "training.steps=1"]
    few = 1 if arguments.quick else 5
    run(
        training,
        rounds=min(arguments.rounds, 3 if arguments.quick else 99),
        training_rounds=few,
        output=arguments.output,
    )


if __name__ == "__main__":
    main()
