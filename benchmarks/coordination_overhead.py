"""What measuring the balance costs: wall time of the quickstart's steps with its default measurement over without.

Rounds alternate between the two on the same model and the very same batches, so that a machine that slows down slows
both. The ratio is the median over the rounds; the measurements' own clock gives a second, steadier number.

    python benchmarks/coordination_overhead.py              # 7 minutes on two cores
    python benchmarks/coordination_overhead.py --quick      # a look
    python benchmarks/coordination_overhead.py --rounds 9 --steps 40 coordination.measure_every=5
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring import ASSETS, command, read, result, write
from rich.console import Console

from cotune.progress import table
from cotune.quickstart import ensure
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.trace import Trace, read_trace
from cotune.training.catalogue import find_recipe
from cotune.training.loop import TrainingLoop
from cotune.training.prepare import make_batches
from cotune.training.run import prepare_training


def make_loop(recipe: Recipe, folder: Path, console: Console) -> TrainingLoop:
    """Return a loop of the recipe that is past its first steps and measurement, which are slower than the others."""
    prepared = prepare_training(recipe, console)
    batches = make_batches(recipe, prepared.samples, prepared.model)
    loop = TrainingLoop(recipe, prepared.model, batches, prepared.loaders, RunFolder(folder), console)
    take_steps(loop, recipe.coordination.measure_every)
    return loop


def take_steps(loop: TrainingLoop, steps: int) -> tuple[float, float]:
    """Take steps and return their seconds, and how many of those went into measuring."""
    first = loop.step + 1
    loop.recipe.training.steps = loop.step + steps
    with Trace(loop.run_folder.trace) as trace:
        loop.run(trace)
    rows = [row for row in read_trace(loop.run_folder.trace, "step") if row["step"] >= first]
    probes = sum(row["balance"]["probe_seconds"] for row in rows if "balance" in row)
    return sum(row["step_seconds"] for row in rows), probes


def one_round(loop: TrainingLoop, steps: int, *, measured_first: bool) -> dict[str, float]:
    """Return the seconds of the same batches with and without measuring."""
    meter, state = loop.coordinator.meter, loop.batches.state_dict()
    found: dict[str, float] = {}
    for measured in (measured_first, not measured_first):
        loop.batches.load_state_dict(state)
        loop.coordinator.meter = meter if measured else None
        seconds, probes = take_steps(loop, steps)
        found |= {"with": seconds, "measuring": probes} if measured else {"without": seconds}
    loop.coordinator.meter = meter
    return found


def summarise(rounds: list[dict[str, float]], steps: int, recipe: Recipe) -> dict[str, Any]:
    """Return the medians over the rounds, with machine, versions and date."""
    ratios = [found["with"] / found["without"] for found in rounds]
    shares = [found["measuring"] / found["without"] for found in rounds]
    return result(
        "coordination_overhead",
        {"ratio": statistics.median(ratios), "ratios": ratios, "measuring_share": statistics.median(shares)},
        recipe=recipe.name,
        measure_every=recipe.coordination.measure_every,
        probe=recipe.coordination.probe,
        batch_size=recipe.training.batch_size,
        steps_per_round=steps,
        rounds=len(rounds),
        seconds_per_step={name: statistics.median(f[name] for f in rounds) / steps for name in ("with", "without")},
    )


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the medians and the spread of the rounds."""
    rows = [
        ["wall time with / without", f"{summary['ratio']:.4f}"],
        ["smallest and largest round", f"{min(summary['ratios']):.4f} {max(summary['ratios']):.4f}"],
        ["measuring, by its own clock", f"{summary['measuring_share']:.2%}"],
        *([f"seconds a step, {name}", f"{value:.3f}"] for name, value in summary["seconds_per_step"].items()),
    ]
    what = f"measured every {summary['measure_every']} steps"
    console.print(table(f"{summary['recipe']}, {what}", ["", ""], rows))


def main() -> None:
    """Take the rounds, print the table, write the JSON."""
    parser = command(__doc__, rounds=7, quick="two rounds of few steps, for a look")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument(
        "--steps", type=int, default=40, help="of a round, with and without each; a multiple of measure_every"
    )
    arguments = read(parser)
    console = Console()
    if arguments.recipe == "quickstart":
        ensure(ASSETS, console)
    recipe = find_recipe(arguments.recipe, arguments.overrides)
    if arguments.quick:
        arguments.rounds, arguments.steps = 2, recipe.coordination.measure_every
    if not recipe.coordination.measure_every or arguments.steps % recipe.coordination.measure_every:
        parser.error(f"--steps must be a multiple of coordination.measure_every ({recipe.coordination.measure_every})")
    with tempfile.TemporaryDirectory() as folder:
        loop = make_loop(recipe, Path(folder), Console(quiet=True))
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(one_round(loop, arguments.steps, measured_first=bool(number % 2)))
            console.print(f"round {number + 1}: {rounds[-1]['with'] / rounds[-1]['without']:.4f}")
    summary = summarise(rounds, arguments.steps, recipe)
    show(summary, console)
    console.print(f"{write(summary, arguments.output)} written")


if __name__ == "__main__":
    main()
