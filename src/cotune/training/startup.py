"""The start-up table: what learns and how fast, on how much data, in which precision, and what memory it takes."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from rich.console import Console

from cotune.coordination.components import Component
from cotune.coordination.schedules import PRODIGY
from cotune.data.batching import Batches
from cotune.data.passes import padded_share
from cotune.data.template import Encoded
from cotune.errors import CotuneError
from cotune.evaluation.overlap import tell_overlap
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import table
from cotune.recipe import Recipe, Training
from cotune.trace import Trace
from cotune.training.estimate import Estimate
from cotune.training.largest_pass import estimate_pass, largest_pass
from cotune.training.loop import TrainingLoop
from cotune.training.model_and_data import Prepared
from cotune.training.prepare import passes_of
from cotune.training.processes import Processes
from cotune.training.versions import versions

_LOOKED_AT = 4
_GIB = 2**30
_SHORT = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def announce(prepared: Prepared, loop: TrainingLoop, trace: Trace | None) -> Estimate | None:
    """Print what is about to be tuned, record it in `trace` unless it was before, and return the run's estimate."""
    recipe, console = prepared.recipe, prepared.console
    batches = coming_batches(loop.batches)
    found = estimated(recipe, batches, prepared.processes)
    print_startup(prepared, loop.components, batches, found, console)
    if trace is not None:
        trace.write(
            "start",
            loop.step,
            name=recipe.name,
            seed=recipe.seed,
            processes=prepared.processes.size,
            components={name: [part.trainable_count, part.total] for name, part in loop.components.items()},
            samples=dict(prepared.samples.counts),
            overlap=_overlap(prepared),
            precision=precision_line(prepared.model, recipe),
            memory=None if found is None or found.memory.range is None else asdict(found.memory.range),
            versions=versions(),
        )
    return found


def _overlap(prepared: Prepared) -> dict[str, Any] | None:
    """Return, and say, what of the test set is trained on; None without a test set."""
    samples = prepared.samples
    if not samples.test or not prepared.processes.main:  # one process writes it down
        return None
    return tell_overlap(samples.all_train, samples.test, prepared.console).as_result()


def print_startup(
    prepared: Prepared,
    components: dict[str, Component],
    batches: list[list[Encoded]],
    found: Estimate | None,
    console: Console,
) -> None:
    """Print the table of components, and lines about data, batches, precision and memory."""
    columns = ["component", "tune", "trainable", "total", "rate", "GiB"]
    console.print(table("What learns", columns, component_rows(components, prepared.recipe, found)))
    for line in prepared.samples.readers:
        console.print(f"Data:      {line}", markup=False, soft_wrap=True)
    counts = ", ".join(f"{name} {value:,}" for name, value in prepared.samples.counts.items())
    console.print(f"Samples:   {counts}", soft_wrap=True)
    console.print(f"A step:    {batch_line(batches, prepared.recipe.training)}", soft_wrap=True)
    console.print(f"Precision: {precision_line(prepared.model, prepared.recipe)}", soft_wrap=True)
    console.print(f"Memory:    {memory_line(found, on_gpu=prepared.model.device.type != 'cpu')}", soft_wrap=True)
    if prepared.processes.size > 1:
        console.print(f"Processes: {prepared.processes.size}, language model {prepared.recipe.training.parallel}")
    elif prepared.recipe.training.parallel == "sharded":
        console.print("One process: the language model is not sharded (training.parallel=sharded is for several)")


def component_rows(found: dict[str, Component], recipe: Recipe, known: Estimate | None = None) -> list[list[str]]:
    """Return the rows of the start-up table: how a component learns, its parameters, its rate and its memory."""
    rows = []
    for name, part in found.items():
        settings = getattr(recipe.components, name)
        own = "found by prodigy" if recipe.coordination.rule == PRODIGY else f"{settings.rate:g}"
        rate = own if part.trainable else "-"
        rows.append([name, settings.tune, f"{part.trainable_count:,}", f"{part.total:,}", rate, _memory(name, known)])
    return rows


def _memory(name: str, known: Estimate | None) -> str:
    """Return the memory of a component in GiB: weights, gradients, the optimiser's state and activations."""
    part = None if known is None else known.by_component.get(name)
    if part is None or part.activations is None:
        return "-"
    return f"{(part.weights + part.gradients + part.optimizer + part.activations) / _GIB:.2f}"


def coming_batches(batches: Batches) -> list[list[Encoded]]:
    """Return the next few batches; the stream stands where it stood."""
    state = batches.state_dict()
    found = list(islice(batches, _LOOKED_AT))
    batches.load_state_dict(state)
    return found


def batch_line(batches: list[list[Encoded]], settings: Training) -> str:
    """Return how large a step is, by the batches that come first."""
    samples = [item for batch in batches for item in batch]
    tokens, learned = sum(map(len, samples)), sum(item.answer_tokens for item in samples)
    padding = padded_share([rows for batch in batches for rows in passes_of(batch, settings)])
    number = len(batches)
    return (
        f"{len(samples) / number:.0f} samples, {tokens / number:,.0f} tokens of which {learned / number:,.0f} carry "
        f"loss, {padding:.0%} padding (mean of the first {number} steps)"
    )


def precision_line(model: MultimodalLM, recipe: Recipe) -> str:
    """Return what the weights are stored in, and where they lie."""
    quantised = f", layers in {recipe.model.llm.quantize}" if recipe.model.llm.quantize else ""
    learning = sorted({_SHORT.get(part.dtype, str(part.dtype)) for part in model.parameters() if part.requires_grad})
    where = f"{torch.get_num_threads()} thread(s)" if model.device.type == "cpu" else torch.cuda.get_device_name()
    base = f"language model in {recipe.model.llm.dtype}{quantised}, what learns in {' and '.join(learning)}"
    checkpointed = ", activations computed again" if recipe.training.gradient_checkpointing else ""
    return f"{base}{checkpointed}; on {model.device.type}, {where}"


def memory_line(found: Estimate | None, *, on_gpu: bool) -> str:
    """Return the estimate of a step's memory, as far as it is known.

    A bound above is said of a GPU alone: a CPU's memory also holds Python and what its allocator keeps.
    """
    if found is None:
        return "not estimated: the models' shapes are not known"
    if found.memory.range is None:
        known = found.memory.weights + found.memory.gradients_and_optimizer
        return f"{known / _GIB:.2f} GiB for weights and optimiser; activations are not counted: {found.not_counted}"
    size = found.memory.range
    bounds = f"at least {size.low / _GIB:.2f}" + (f", at most {size.high / _GIB:.2f}" if on_gpu else ", beside Python")
    return (
        f"{size.expected / _GIB:.2f} GiB expected ({bounds}) "
        f"for {found.assumed.micro_batch_size} rows of {found.assumed.tokens} tokens at a time"
    )


def estimated(recipe: Recipe, batches: list[list[Encoded]], processes: Processes) -> Estimate | None:
    """Return the estimate for the largest pass of some batches, of one process; None where shapes are not known.

    It knows nothing of sharding: a sharded language model's weights take less.
    """
    found = largest_pass(batches, recipe.training, processes)
    try:
        # Building a model, of shapes too, draws random numbers, which the run must not miss.
        with torch.random.fork_rng(devices=[]):
            return None if found is None else estimate_pass(recipe, found)
    except CotuneError:
        return None
