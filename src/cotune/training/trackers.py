"""Experiment trackers beside the trace: tensorboard, wandb and trackio, by accelerate's classes for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from cotune.errors import RecipeError
from cotune.recipe import Recipe
from cotune.trace import Row, Trace

# What each needs installed: any one of them.
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
TRACKED = ("step", "validation", "held_out", "task", "test")


def check_trackers(kinds: Sequence[str]) -> None:
    """Raise RecipeError when a tracker is not installed, with the lines that install them."""
    problems = [
        f"training.trackers: {kind} is not installed: pip install {PACKAGES[kind][0]}"
        for kind in kinds
        if not any(find_spec(package) for package in PACKAGES[kind])
    ]
    if problems:
        raise RecipeError("trackers", problems)


@contextmanager
def tracked(trace: Trace, recipe: Recipe) -> Iterator[None]:
    """Tell the recipe's trackers every number of the steps and scores a trace is given inside the block.

    The project is named as the recipe; tensorboard writes into the run folder's `tensorboard`.
    """
    trackers = [_started(kind, recipe) for kind in recipe.training.trackers]

    def tell(row: Row) -> None:
        if row["event"] in TRACKED:
            for tracker in trackers:
                tracker.log(numbers(row), step=row["step"])

    if trackers:
        trace.listeners.append(tell)
    try:
        yield
    finally:
        for tracker in trackers:
            tracker.finish()


def numbers(row: Row) -> dict[str, float]:
    """Return the finite numbers of a row by name, nested ones as `rates/llm`; scores are led by their event.

    Those of a task by its name as well.
    """
    event = row["event"]
    content = {key: value for key, value in row.items() if key not in ("event", "step", "seconds")}
    flat = _flat(content, "" if event == "step" else f"{event}/{row['name']}/" if event == "task" else f"{event}/")
    return {
        name: float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and math.isfinite(value)  # what a plot can hold
    }


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by slashes."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _started(kind: str, recipe: Recipe) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=not torch.cuda.is_available())  # the trackers ask it which process this is
    make = LOGGER_TYPE_TO_CLASS[kind]
    where = [str(recipe.folder / "tensorboard")] if make.requires_logging_directory else []
    tracker = make(recipe.name, *where)
    tracker.start()
    settings = _flat(recipe.model_dump(mode="json"))
    tracker.store_init_configuration(
        {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
    )
    return tracker
