"""Snapshots: everything a run needs to go on as if it had never stopped, without pickle.

Each lies in its own folder `step-N`, sealed with checksums. It is written under another name and renamed when all of it
is on the disk, so that one cut short by a kill, a full disk or a power failure is never taken for a whole one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from cotune.checksums import damage, seal, sync_folder
from cotune.coordination.saved_state import joined_tensors, split_tensors
from cotune.errors import CheckpointError, describe_write_error
from cotune.model.checkpoint import load_checkpoint, save_checkpoint
from cotune.model.multimodal_lm import MultimodalLM
from cotune.training.random_state import random_state, restore_random_state

_TENSORS, _STATE = "optimizer.safetensors", "state.json"
_DAMAGED = ".damaged"


def save_snapshot(
    folder: Path, model: MultimodalLM, optimizer: Optimizer, step: int, state: dict[str, Any], *, keep: int = 1
) -> None:
    """Write a snapshot, then remove all but the newest `keep`.

    Raises:
        CheckpointError: when it cannot be written; the older snapshots are then still whole.
    """
    target, half = folder / f"step-{step}", folder / f".step-{step}"
    try:
        _remove_leftovers(folder)
        save_checkpoint(model, half, {"step": step})
        state = state | {"optimizer": _optimizer_state(model, optimizer), "random": random_state()}
        state, tensors = split_tensors(state)
        save_file(tensors, half / _TENSORS)
        (half / _STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        seal(half)
        _put_in_place(half, target)
    except (OSError, SafetensorError, CheckpointError) as error:
        shutil.rmtree(half, ignore_errors=True)
        reason = error.__cause__ if isinstance(error.__cause__, OSError | SafetensorError) else error
        raise CheckpointError(f"{target}: the snapshot cannot be written: {describe_write_error(reason)}") from error
    for old in whole_snapshots(folder)[keep:]:
        _remove(old)


def whole_snapshots(folder: Path) -> list[Path]:
    """Return the snapshots whose writing came to its end, the newest first."""
    found = {path: path.name.removeprefix("step-") for path in folder.glob("step-*") if path.is_dir()}
    return sorted((path for path, step in found.items() if step.isdigit()), key=lambda path: -int(found[path]))


def newest_snapshot(folder: Path) -> Path | None:
    """Return the newest snapshot whose writing came to its end, or None."""
    return next(iter(whole_snapshots(folder)), None)


def last_good(folder: Path) -> str:
    """Return in words which snapshot can be gone on from."""
    newest = newest_snapshot(folder)
    return "no snapshot was kept yet" if newest is None else f"the last good snapshot is {newest}"


def pass_over_damaged(folder: Path, say: Callable[[str], object]) -> None:
    """Set damaged snapshots aside as `step-N.damaged`, from the newest to the first whole one, and name them to `say`.

    Raises:
        CheckpointError: when there are snapshots and all of them are damaged.
    """
    for snapshot in whole_snapshots(folder):
        problems = damage(snapshot)
        if not problems:
            return
        say(f"{snapshot} is damaged and not used: {'; '.join(problems)}")
        aside = snapshot.with_name(snapshot.name + _DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        snapshot.rename(aside)
    if any(folder.glob(f"step-*{_DAMAGED}")):
        raise CheckpointError(f"{folder}: every snapshot is damaged; begin the run again with --overwrite")


def load_snapshot(snapshot: Path, model: MultimodalLM, optimizer: Optimizer) -> dict[str, Any]:
    """Load weights, optimiser and random state; return the rest (`step` and what the run stored)."""
    load_checkpoint(model, snapshot)
    try:
        tensors = load_file(snapshot / _TENSORS)
        state: dict[str, Any] = json.loads((snapshot / _STATE).read_text(encoding="utf-8"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{snapshot}: damaged ({error}); remove it and resume from an older one") from error
    state = joined_tensors(state, tensors)
    _load_optimizer_state(model, optimizer, state.pop("optimizer"))
    restore_random_state(state.pop("random"))
    return state


def _put_in_place(half: Path, target: Path) -> None:
    """Give a complete snapshot its name."""
    if target.exists():
        _remove(target)
    half.rename(target)
    sync_folder(target.parent)


def _remove(snapshot: Path) -> None:
    """Remove a snapshot; under another name first, because removing a folder can be cut short."""
    leaving = snapshot.with_name(f".{snapshot.name}.old")
    snapshot.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def _trainable(model: MultimodalLM) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _optimizer_state(model: MultimodalLM, optimizer: Optimizer) -> dict[str, Any]:
    """Return every tensor and number an optimiser remembers, by the parameter's name and by the group's place.

    Groups count too: Prodigy keeps its estimates there. Views of one storage are copied, as one file cannot hold them.
    """
    parameters = {name: _kept(optimizer.state.get(part, {})) for name, part in _trainable(model).items()}
    groups = {str(place): _kept(group) for place, group in enumerate(optimizer.param_groups)}
    return {"parameters": {name: kept for name, kept in parameters.items() if kept}, "groups": groups}


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in values.items()
        if isinstance(value, Tensor | int | float)
    }


def _load_optimizer_state(model: MultimodalLM, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what `_optimizer_state` returned; tensors go where their parameter lives, the step counter too."""
    for name, parameter in _trainable(model).items():
        if name in state["parameters"]:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if isinstance(value, Tensor) else value
                for key, value in state["parameters"][name].items()
            }
    for place, group in enumerate(optimizer.param_groups):
        group.update(state["groups"][str(place)])
