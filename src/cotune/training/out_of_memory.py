"""Advice when a step does not fit the memory: which keys to change, and what each change would save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from cotune.data.template import Encoded
from cotune.errors import CotuneError, OutOfMemoryError, first_line
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.training.largest_pass import LargestPass, estimate_pass, largest_pass
from cotune.training.processes import Processes

# What PyTorch's allocator for the CPU says; a GPU's raises a class of its own.
_CPU_SIGNS = ("can't allocate memory", "not enough memory")
_GIB = 2**30


@contextmanager
def memory_advice(recipe: Recipe, encoded: Sequence[Encoded], processes: Processes) -> Iterator[None]:
    """Turn running out of memory in the block into an OutOfMemoryError that says which keys to lower by how much."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(advice(recipe, encoded, processes, first_line(error))) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _CPU_SIGNS):
            raise
        raise OutOfMemoryError(advice(recipe, encoded, processes, first_line(error))) from error


def advice(recipe: Recipe, encoded: Sequence[Encoded], processes: Processes, reason: str) -> str:
    """Return what a batch was too much for, and the changes that help, each with what a step would then take."""
    found = largest_pass([encoded], recipe.training, processes)
    if found is None:
        return f"a step does not fit the memory ({reason})"
    lines = [
        f"a step does not fit the memory ({reason}). Its largest part has {found.rows} rows at a time of "
        f"{found.tokens} tokens, the longest sample is '{found.longest.sample.id}'. By the estimate it takes "
        f"{_taken(recipe, found)}; with"
    ]
    for changes, rows in _remedies(recipe, found.rows):
        changed = parse_recipe(recipe.model_dump(mode="json"), changes)
        lines.append(f"  {' '.join(changes)}: {_taken(changed, replace(found, rows=rows))}")
    lines.append(
        "These change nothing in what is learned, rounding aside; go on from the newest snapshot with: cotune train "
        f"{recipe.folder / 'recipe.yaml'} KEY=VALUE --resume --allow-changed. What does change it, for a new run: "
        f"data.max_tokens below {len(found.longest)}, or model.llm.quantize=nf4"
    )
    return "\n".join(lines)


def _remedies(recipe: Recipe, rows: int) -> list[tuple[list[str], int]]:
    """Return the changes worth trying, the mildest first, with the rows at a time that each leaves."""
    found = [([f"training.micro_batch_size={size}"], size) for size in dict.fromkeys((rows // 2, 1)) if 0 < size < rows]
    if not recipe.training.gradient_checkpointing:
        found.append((["training.gradient_checkpointing=true"], rows))
        if rows > 1:
            found.append((["training.micro_batch_size=1", "training.gradient_checkpointing=true"], 1))
    return found


def _taken(recipe: Recipe, found: LargestPass) -> str:
    """Return the estimated memory of a pass; that it is unknown where it cannot be counted."""
    try:
        total = estimate_pass(recipe, found).memory.total
    except CotuneError:
        total = None
    return "an unknown amount" if total is None else f"{total / _GIB:.2f} GiB"
