"""Which weights answer for which modality: folded ones where memory allows, the adapters' routing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from cotune.adapters.fold import fold_report
from cotune.adapters.sites import decoder
from cotune.errors import FoldError
from cotune.messages import modality_sets
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.shared_weights import share_weights

# `base`: the untouched language model; `tuned`: one that learned otherwise than by routed adapters.
PathName = Literal["routed", "folded", "base", "tuned"]
_CGROUP = Path("/sys/fs/cgroup")
# A fold computes on a copy in float32, and compares.
_FLOAT32, _ASIDE = 4, 1.3


@dataclass(frozen=True)
class Way:
    """How one modality is answered.

    `body` is the decoder that computes, `routes` whether it must be routed before. `routing` has the experts' weights
    at every site, [sites, experts], empty without routing or where every input has its own.
    """

    modality: str
    path: PathName
    body: nn.Module
    routes: bool
    routing: list[list[float]]


def find_ways(
    model: MultimodalLM, *, fold: bool, say: Callable[[str], None], free_bytes: Callable[[], int] | None = None
) -> dict[str, Way]:
    """Return the way of every modality the model knows; `say` is told what was folded, and why something was not.

    `free_bytes` says how much memory is left; the machine is asked when it is not given.
    """
    ways = {name: _unfolded(model, name) for name in modality_sets(model.encoders)}
    routed = [way for way in ways.values() if way.path == "routed"]
    if not fold or not routed:
        return ways
    for way in routed:
        body = _folded_body(model, way.modality, free_bytes or (lambda: _free_bytes(model.device)), say)
        if body is None:
            break
        ways[way.modality] = Way(way.modality, "folded", body, False, way.routing)
    return ways


def path_of(model: MultimodalLM, modality: str) -> PathName:
    """Return which weights answer a modality while nothing is folded."""
    if model.adapters is None:
        learned = any(parameter.requires_grad for parameter in model.llm.parameters())
        return "tuned" if learned else "base"
    return "base" if model.adapters.leaves_alone(modality) else "routed"


def _unfolded(model: MultimodalLM, modality: str) -> Way:
    body, adapters, path = decoder(model.llm), model.adapters, path_of(model, modality)
    if adapters is None:
        return Way(modality, path, body, False, [])
    if adapters.routed_by_content:
        return Way(modality, path, body, True, [])
    index = adapters.modalities.index(modality)
    with torch.no_grad():
        routing = [[round(weight, 4) for weight in table[index].tolist()] for table in adapters.tables()]
    return Way(modality, path, body, True, routing)


def _folded_body(
    model: MultimodalLM, modality: str, free_bytes: Callable[[], int], say: Callable[[str], None]
) -> nn.Module | None:
    """Return a decoder with one modality's adapters folded in, or None when that cannot be, which is said."""
    if getattr(model.llm, "is_quantized", False):
        say("Routed: the language model is quantised; folded it would have to be stored in full")
        return None
    needed = round(_ASIDE * _FLOAT32 * sum(parameter.numel() for parameter in model.llm.parameters()))
    if (free := free_bytes()) < needed:
        say(f"Routed: folding {modality} needs {needed / 2**30:.1f} GiB for a while, {free / 2**30:.1f} GiB are free")
        return None
    try:
        folding = fold_report(model.llm, modality, model.adapters)
    except FoldError as error:
        say(f"Routed: {error}")
        return None
    own = share_weights(folding.plain, model.llm)
    say(f"Folded: {modality}, {own / 2**20:,.0f} MiB of its own; relative logit difference {folding.error:.0e}")
    body: nn.Module = decoder(folding.plain)
    return body


def _free_bytes(device: torch.device) -> int:
    """Return how much memory is left on a device; in a container, at most what its limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def count_paths(ways: Sequence[Way]) -> str:
    """Return which modalities are answered how, in one line."""
    return ", ".join(f"{way.modality} {way.path}" for way in ways)
