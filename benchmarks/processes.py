"""What a step takes on one process and on several: wall time, and the bytes sent, against the formulas.

Each round takes the same batches by the first process alone, by all, and by all with the language model sharded, while
those not at work wait: a machine that slows down slows all three.

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 benchmarks/processes.py
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 benchmarks/processes.py --rounds 5 --steps 4 training.batch_size=32
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import ASSETS, medians, ratio, result, write
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from cotune.progress import make_console, table
from cotune.quickstart import ensure
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.training.catalogue import find_recipe
from cotune.training.loop import TrainingLoop
from cotune.training.prepare import make_batches
from cotune.training.processes import ALONE, Processes, start_processes
from cotune.training.run import prepare_training

WAYS = ("alone", "replicated", "sharded")


class SentBytes(TorchDispatchMode):
    """Counts the bytes handed to sums and gathers."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = {"sum": 0, "gather": 0}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective's first tensors, and run it."""
        kind = {"allreduce_": "sum", "_allgather_base_": "gather"}.get(function.__name__.split(".")[0])
        if function.namespace == "c10d" and kind is not None:
            given = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            self.bytes[kind] += sum(item.numel() * item.element_size() for item in given)
        return function(*args, **(kwargs or {}))


def make_loop(recipe: Recipe, way: str, folder: Path, processes: Processes) -> TrainingLoop:
    """Return a loop that trains in one of the ways and is past its first step, which is slower than the others."""
    recipe = recipe.model_copy(deep=True)
    recipe.training.parallel = "sharded" if way == "sharded" else "replicated"
    console = make_console(quiet=True)
    prepared = prepare_training(recipe, console)
    batches = make_batches(recipe, prepared.samples, prepared.model)
    who = ALONE if way == "alone" else processes
    loop = TrainingLoop(recipe, prepared.model, batches, prepared.loaders, RunFolder(folder / way), console, who)
    if way != "alone" or processes.main:
        loop._one_step()
    return loop


def seconds_of(loop: TrainingLoop, steps: int, processes: Processes) -> float:
    """Return the seconds of one step; processes that do not take part wait."""
    distributed.barrier()
    started = time.perf_counter()
    if loop.processes.size > 1 or processes.main:
        for _ in range(steps):
            loop._one_step()
    distributed.barrier()
    return (time.perf_counter() - started) / steps


def sent_by(loop: TrainingLoop) -> dict[str, int]:
    """Return the bytes one process hands over in one step."""
    with SentBytes() as counted:
        loop._one_step()
    return counted.bytes


def expected_bytes(loop: TrainingLoop) -> dict[str, int]:
    """Return the same by the formulas of docs/scale.md."""
    learning = loop._learning
    frozen = [part for part in loop.model.llm.model.layers.parameters() if not part.requires_grad]
    parts = -(-loop.recipe.training.batch_size // loop.processes.size)
    parts = -(-parts // (loop.recipe.training.micro_batch_size or parts))
    layers = sum(part.numel() * part.element_size() for part in frozen) if loop.passes.sharded else 0
    return {
        "sum": 4 * sum(part.numel() for part in learning) + 8 * (len(learning) + 2),
        "gather": 2 * parts * layers,
    }


def measure(recipe: Recipe, rounds: int, steps: int, folder: Path) -> dict[str, Any]:
    """Return seconds a step in every way and round, and the bytes sent and expected."""
    processes = start_processes()
    loops = {way: make_loop(recipe, way, folder, processes) for way in WAYS}
    sent = {way: sent_by(loops[way]) for way in WAYS[1:]}
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, loop in loops.items():
            found[way].append(seconds_of(loop, steps, processes))
    return result(
        "processes",
        {"speed_up": {way: ratio(found["alone"], found[way]) for way in WAYS[1:]}},
        recipe=recipe.name,
        batch_size=recipe.training.batch_size,
        processes=processes.size,
        trainable=sum(part.numel() for part in loops["alone"]._learning),
        seconds_per_step=medians(found),
        rounds=found,
        bytes_sent=sent,
        bytes_expected={way: expected_bytes(loops[way]) for way in WAYS[1:]},
    )


def main() -> None:
    """Take the rounds; the first process prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the quickstart recipe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON to write")
    chosen = parser.parse_args()
    processes = start_processes()
    if processes.size == 1:
        parser.error("start it by torchrun --nproc_per_node 2")
    with processes.first_of_machine():
        ensure(ASSETS, make_console(quiet=not processes.main))
    recipe = find_recipe("quickstart", ["coordination.measure_every=0", *chosen.overrides])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(recipe, chosen.rounds, chosen.steps, Path(folder))
    if processes.main:
        write(found, chosen.output)
        rows = [[way, f"{value:.3f}"] for way, value in found["seconds_per_step"].items()]
        rows += [[f"speed-up, {way}", f"{value:.2f}"] for way, value in found["speed_up"].items()]
        for way in WAYS[1:]:
            rows += [
                [f"bytes, {way}: {kind}", f"{size:,} ({found['bytes_expected'][way][kind]:,} by formula)"]
                for kind, size in found["bytes_sent"][way].items()
            ]
        make_console().print(table(f"{found['processes']} processes", ["", "seconds a step"], rows))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
