"""What encoders make of a run's pictures and sounds: computed once before the first step, and the statistics of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from cotune.compute_threads import threads_without_helpers
from cotune.data.collate import LoadMedia, MediaLoaders
from cotune.messages import AUDIO, IMAGE
from cotune.model.encoders import FeatureEncoder
from cotune.model.feature_cache import FeatureCache
from cotune.model.feature_store import FeatureStore
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import progress
from cotune.quickstart import cache_folder
from cotune.recipe import Data
from cotune.training.processes import ALONE, Processes

_STATISTICS_CHUNK = 512
# Enough to know mean and deviation to a hundredth, and soon encoded where features cannot all be kept.
_MOST_FOR_STATISTICS = 8192
_PLURAL = {IMAGE: "pictures", AUDIO: "sounds"}


def prepare_media(
    model: MultimodalLM,
    paths: Mapping[str, Sequence[Path]],
    data: Data,
    console: Console,
    processes: Processes = ALONE,
) -> MediaLoaders:
    """Return what loads each kind of media for the model; a frozen trunk's output is computed once and kept.

    All encoders together keep as much as `data` says. Where media need more, the rest is encoded for every batch, and
    the console says how many.

    Raises:
        DataError: when a file cannot be loaded.
        OtherRankError: when another process met an error.
    """
    store = FeatureStore(cache_folder() / "features", data.features_room)
    pool = threads_without_helpers(data.workers, "cotune-media") if data.workers else None
    with pool or nullcontext():
        used = {kind: found for kind, found in paths.items() if found}
        return {k: _cached(model.encoder(k), found, store, pool, console, processes) for k, found in used.items()}


def _cached(
    encoder: FeatureEncoder,
    paths: Sequence[Path],
    store: FeatureStore,
    pool: Executor | None,
    console: Console,
    processes: Processes,
) -> LoadMedia:
    """Return a cache with the rows of files in it, each process having computed a share of them."""
    cache, what = FeatureCache(encoder, store), _PLURAL[encoder.medium]
    if not encoder.cacheable:
        return cache
    blocks = cache.blocks(paths)
    with progress(console, f"Encoding {what}", sum(map(len, blocks)), what) as advance:
        processes.together(lambda: cache.keep(processes.share(blocks), advance, pool))
        cache.keep(blocks, advance, pool)  # finds the others' rows in the store, or makes them where it is not shared
    if store.failure:
        console.print(f"[yellow]The encoded {what} could not be kept for the next run: {store.failure}[/]")
    if missing := len(paths) - len(cache):
        _tell_missing(cache, paths[0], missing, store, console)
    return cache


def _tell_missing(cache: FeatureCache, path: Path, missing: int, store: FeatureStore, console: Console) -> None:
    """Say how many files will be encoded again for every batch that holds them, and how much room would keep them."""
    what, needed = _PLURAL[cache.encoder.medium], (store.in_use + missing * cache.row_size(path)) / 1e9
    advice = f" To keep all: data.kept_features_gb={math.ceil(needed)}" if not store.failure else ""
    console.print(
        f"[yellow]Encoded {what} are kept for {len(cache):,} of {len(cache) + missing:,} files; the others are encoded "
        f"for every batch that holds them.{advice}[/]"
    )


def standardize_connectors(
    model: MultimodalLM, loaders: MediaLoaders, train_paths: Mapping[str, Sequence[Path]]
) -> None:
    """Set the connectors' per-channel statistics from the training media, or from 8,192 of them that lie evenly."""
    for kind, paths in train_paths.items():
        chosen = paths[:: math.ceil(len(paths) / _MOST_FOR_STATISTICS)]
        model.connector(kind).standardize(_feature_batches(model.encoder(kind), loaders[kind], chosen, model.device))


@torch.no_grad()
def _feature_batches(
    encoder: FeatureEncoder, load: LoadMedia, paths: Sequence[Path], device: torch.device
) -> Iterator[Tensor]:
    """Yield the features of files, [files, tokens, width], some hundred at a time."""
    for start in range(0, len(paths), _STATISTICS_CHUNK):
        rows = load(paths[start : start + _STATISTICS_CHUNK])
        yield encoder.features({name: tensor.to(device) for name, tensor in rows.items()})
