"""Runs of the training loop, by one process or by two, that leave behind what each process saw."""

from __future__ import annotations

import json
import os
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from cotune.coordination.averages import local
from cotune.errors import CotuneError
from cotune.messages import Sample
from cotune.model.checkpoint import saved_tensors
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.trace import Trace
from cotune.training.loop import TrainingLoop
from cotune.training.model_and_data import Prepared
from cotune.training.prepare import make_batches
from cotune.training.processes import start_processes
from cotune.training.run import prepare_training
from cotune.training.snapshot import newest_snapshot
from cotune.training.stopping import InterruptedRunError
from tests.tiny import tiny_recipe

RANKS = 2
TEXTS = 12
# The tiny encoder's gradients are next to nothing, and Adam makes full steps of their rounding: it stays frozen.
COMMON = (
    "components.vision.tune=frozen",
    "model.llm.routing.text=trained",
    "training.batch_size=3",  # two samples for one process, one for the other
    "training.length_pool=1",  # pictures and text in one batch, so that one process may have no picture
    "coordination.rule=feedforward",
    "coordination.measure_every=2",
    "training.steps=8",
)
SHARDED = ("training.parallel=sharded", "training.micro_batch_size=1")
CASES: dict[str, tuple[str, ...]] = {
    "replicated": (),
    "cut": ("training.micro_batch_size=1",),
    "sharded": SHARDED,
    "inline": (*SHARDED, "model.llm.routing.mode=soft", "model.llm.routing.weights=inline"),
    "lora": (*SHARDED, "components.llm.tune=lora", "training.gradient_checkpointing=true"),
    "bf16": ("training.precision=bf16",),
}


def case_recipe(root: Path, name: str, folder: Path) -> Recipe:
    """Return the recipe of a case, over pictures and as many text-only samples."""
    texts = root / "texts.json"
    if not texts.exists():
        lines = [{"instruction": f"count to {number}", "output": "x" * number} for number in range(1, TEXTS + 1)]
        texts.write_text(json.dumps(lines))
    sources = f"data.train=[{{path: {root / 'train'}, reader: easy-vqa}}, {{path: {texts}, reader: alpaca}}]"
    return tiny_recipe(root, *COMMON, sources, *CASES[name], f"output={folder / name}")


def prepared_loop(recipe: Recipe) -> tuple[Prepared, TrainingLoop]:
    prepared = prepare_training(recipe, Console(file=StringIO()))
    batches = make_batches(recipe, prepared.samples, prepared.model)
    folder = RunFolder(recipe.folder)
    loop = TrainingLoop(recipe, prepared.model, batches, prepared.loaders, folder, prepared.console, prepared.processes)
    return prepared, loop


def run_case(recipe: Recipe, rows: Path) -> dict[str, Any]:
    """Return the trained weights, and what the trained model answers and loses on the validation samples."""
    prepared, loop = prepared_loop(recipe)
    with Trace(rows) as trace:
        loop.run(trace)
    validation: list[Sample] = prepared.samples.validation
    _, predictions = prepared.evaluate(validation, "validating")
    return {
        "weights": {name: tensor.detach().clone() for name, tensor in saved_tensors(loop.model).items()},
        "held_out": prepared.held_out_loss(validation),
        "answers": [(item.id, item.prediction) for item in predictions],
    }


class SentBytes(TorchDispatchMode):
    """Counts the bytes handed to every collective."""

    def __init__(self) -> None:
        super().__init__()
        self.by_kind: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            given = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            size = sum(item.numel() * item.element_size() for item in given if isinstance(item, torch.Tensor))
            name = function.__name__.split(".")[0]
            self.by_kind[name] = self.by_kind.get(name, 0) + size
        return function(*args, **(kwargs or {}))


def join(number: int, folder: Path) -> None:
    """Join the other process, as a launcher would have this one do."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(RANKS), "OMP_NUM_THREADS": "1"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=RANKS)


def one_rank(number: int, root: str, folder: str) -> None:
    """Do everything that is tested on two processes, and write down what came out."""
    here, tiny = Path(folder), Path(root)
    join(number, here)
    found: dict[str, Any] = {
        name: run_case(case_recipe(tiny, name, here / "two"), here / f"{name}.{number}.jsonl") for name in CASES
    }
    found["resumed"] = resumed(tiny, here, number)
    found["faults"] = faults(tiny, here, number)
    found["sent"] = sent(case_recipe(tiny, "replicated", here / "sent"))
    found["sent sharded"] = sent(case_recipe(tiny, "sharded", here / "sent"))
    found["errors"] = errors(number)
    torch.save(found, here / f"{number}.pt")
    distributed.destroy_process_group()


def resumed(tiny: Path, here: Path, number: int) -> list[dict[str, torch.Tensor]]:
    """Return the weights of a run with dropout, and of one that was cut after five steps and gone on with."""
    whole = case_recipe(tiny, "replicated", here / "whole")
    whole.model.llm.adapters.dropout = 0.3
    cut = whole.model_copy(deep=True)
    cut.output, cut.training.snapshot_every = str(here / "resumed"), 5
    weights = [run_case(whole, here / f"not-resumed.{number}.jsonl")["weights"]]
    _, loop = prepared_loop(cut)
    original = loop._one_step

    def one_step() -> dict[str, Any]:
        if loop.step == 6:
            raise InterruptedError
        return original()

    loop._one_step = one_step  # type: ignore[method-assign]
    with Trace(here / f"resumed.{number}.jsonl") as trace:
        try:
            loop.run(trace)
        except InterruptedError:
            distributed.barrier()
        _, loop = prepared_loop(cut)
        assert loop.resume() and loop.step == 5
        loop.run(trace)
    return [*weights, {name: tensor.detach().clone() for name, tensor in saved_tensors(loop.model).items()}]


def faults(tiny: Path, here: Path, number: int) -> dict[str, Any]:
    """Return what a process sees when the loss of the second alone is no number, and that one alone is told to stop."""
    recipe = case_recipe(tiny, "replicated", here / "faults")
    _, loop = prepared_loop(recipe)
    backward = loop.passes.backward

    def broken(encoded: Any) -> tuple[float, int]:
        loss, padding = backward(encoded)
        if number and loop.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return (float("nan") if number and loop.step == 2 else loss), padding

    loop.passes.backward = broken  # type: ignore[method-assign]
    error: InterruptedRunError | None = None
    with Trace(here / f"faults.{number}.jsonl") as trace:
        try:
            loop.run(trace)
        except InterruptedRunError as stopped:
            error = stopped
    return {
        "skipped": loop.skipped.total,
        "steps": loop.step,
        "status": None if error is None else error.exit_code,
        "snapshot": newest_snapshot(loop.run_folder.snapshots),
        "weights": {name: tensor.detach().clone() for name, tensor in saved_tensors(loop.model).items()},
    }


def sent(recipe: Recipe) -> dict[str, Any]:
    """Return the bytes of each kind of collective in one step, and what they should be counted from."""
    recipe.coordination.rule, recipe.coordination.measure_every = "constant", 0
    _, loop = prepared_loop(recipe)
    while not any(item.sample.media for item in next(loop.batches)):
        pass  # text alone has no gradient for the connector
    with SentBytes() as counted:
        loop._one_step()
    learning = [parameter for parameter in loop._learning if parameter.grad is not None]
    layers = [p for p in loop.model.llm.model.layers.parameters() if not p.requires_grad]
    return {
        "bytes": counted.by_kind,
        "values": sum(parameter.numel() for parameter in learning),
        "parameters": len(loop._learning),
        "layers": sum(parameter.numel() * parameter.element_size() for parameter in layers),
        "layers here": sum(local(parameter).numel() * parameter.element_size() for parameter in layers),
    }


def errors(number: int) -> dict[str, str]:
    """Return what each process hears of a failure of one alone, and of data that are not the same."""
    processes, heard = start_processes(), {}

    def fail() -> None:
        raise CotuneError("the disk is full")

    for name, doing in (
        ("failure", lambda: processes.on_main(fail)),
        ("together", lambda: processes.together(fail if number == 1 else lambda: None)),
        ("difference", lambda: processes.check_equal("the number of samples", number)),
    ):
        try:
            doing()
        except CotuneError as error:
            heard[name] = f"{type(error).__name__}: {error}"
    return heard
