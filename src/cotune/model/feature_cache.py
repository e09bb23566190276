"""What an encoder's frozen trunk makes of each picture or sound, computed once and kept as long as there is room."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cotune.data.media import load_image
from cotune.messages import AUDIO
from cotune.model.encoders import FeatureEncoder
from cotune.model.feature_store import FeatureStore, Rows, blocks_of, size_of

Load = Callable[[Path], Any]
Advance = Callable[[int], None]
_CHUNK = 64
# Bytes that are held in memory at most where they cannot be stored.
_MOST_IN_MEMORY = 4 * 10**9


def loader(encoder: FeatureEncoder) -> Load:
    """Return what loads a file for an encoder: an RGB picture, or a sound at the encoder's own sample rate."""
    if encoder.medium != AUDIO:
        return load_image
    from cotune.data.sound import load_sound

    return partial(load_sound, sample_rate=encoder.sample_rate, max_seconds=encoder.max_seconds)


class _Place(NamedTuple):
    """Where the row of a file is: in which block's rows, and the how many-th there."""

    rows: Rows
    number: int


class FeatureCache:
    """Rows of trunk outputs by file; called with any pictures or sounds, it computes those it does not keep.

    What is kept lies in the store; without one it lies in memory. It is found there under the encoder's fingerprint and
    the files' contents, so a changed file or encoder is computed again. An encoder that learns as a whole has nothing
    to keep: its input is made for every batch, and so are the rows of files that the store has no room for.
    """

    def __init__(self, encoder: FeatureEncoder, store: FeatureStore | None, load: Load | None = None) -> None:
        self.encoder, self.store, self.load = encoder, store, load or loader(encoder)
        self.computed = 0
        self._in_memory = 0
        self._places: dict[Path, _Place] = {}
        self._begun: dict[Path, Future[Tensor]] = {}

    def __len__(self) -> int:
        """Return of how many files the rows are kept."""
        return len(self._places)

    def begin(self, paths: Sequence[Path], pool: Executor) -> None:
        """Begin to load files in the threads of a pool; what was begun for other files is dropped.

        Nothing is begun for files whose rows are kept. An error of loading is raised where the file is asked for.
        """
        unknown = [path for path in paths if path not in self._places]
        self._begun = {path: self._begun.get(path) or pool.submit(self._input, path) for path in unknown}

    def _input(self, path: Path) -> Tensor:
        """Return the network's input for a file, without the batch axis."""
        return self.encoder.preprocess(self.load(path))

    def prepare(self, paths: Sequence[Path], advance: Advance | None = None) -> None:
        """Load or compute the rows of a set of files, as far as there is room, and store them for the next run."""
        self.keep(self.blocks(paths), advance)

    def blocks(self, paths: Sequence[Path]) -> list[list[Path]]:
        """Return files whose rows can be kept and are not yet, in the blocks they are stored in.

        Which these are follows from the files alone, not from what happens to be stored: a run that is repeated
        computes the same rows together, to the same bits.
        """
        unknown = sorted({path for path in paths if path not in self._places}, key=os.path.split)
        if not unknown or not self.encoder.cacheable:
            return []
        found = list(blocks_of(unknown))
        if self.store is None:
            return found
        room, fitting = (self.store.most - self.store.in_use) // self.row_size(unknown[0]), []
        for block in found:
            room -= len(block)
            if room < 0:
                break
            fitting.append(block)
        return fitting

    def row_size(self, path: Path) -> int:
        """Return the bytes of a row, from one that is stored or that of a file."""
        stored = self.store.row_size(self.encoder.fingerprint) if self.store is not None else None
        return stored or size_of(self._trunk([self._input(path)]))

    def keep(
        self, blocks: Sequence[Sequence[Path]], advance: Advance | None = None, pool: Executor | None = None
    ) -> None:
        """Load or compute the rows of `blocks`, and store each block as soon as it is computed.

        The threads of a pool load files while others are computed. Where storing fails, rows are kept in memory, but
        not more than 4 GB of them.
        """
        for block in blocks:
            if block[0] in self._places:
                continue
            if self.store is not None and self._in_memory > _MOST_IN_MEMORY:
                return
            rows = (self._compute if self.store is None else self._stored)(block, advance, pool)
            self._places |= {path: _Place(rows, number) for number, path in enumerate(block)}

    def _stored(self, block: Sequence[Path], advance: Advance | None, pool: Executor | None) -> Rows:
        """Return the rows of a block, from the store if they are there."""
        assert self.store is not None
        file = self.store.file_of(self.encoder.fingerprint, block)
        rows = self.store.read(file, len(block))
        if rows is not None:
            if advance is not None:
                advance(len(block))
            return rows
        rows = self._compute(block, advance, pool)
        if self.store.write(file, rows):
            return self.store.read(file, len(block)) or rows  # mapped, so that memory has it no more
        self._in_memory += size_of(rows)
        return rows

    def rows(self, paths: Sequence[Path]) -> Rows:
        """Return the trunk's output for files in order, one row each."""
        unknown = list(dict.fromkeys(path for path in paths if path not in self._places))
        computed = self._compute(unknown) if unknown else {}
        if unknown == paths:
            return computed
        others = {path: _Place(computed, number) for number, path in enumerate(unknown)}
        places = [self._places.get(path) or others[path] for path in paths]
        return {name: torch.stack([place.rows[name][place.number] for place in places]) for name in places[0].rows}

    __call__ = rows

    def _compute(self, paths: Sequence[Path], advance: Advance | None = None, pool: Executor | None = None) -> Rows:
        """Return the trunk's output for files, some at a time, on the CPU."""
        rows: Rows = {}
        for start in range(0, len(paths), _CHUNK):
            part = paths[start : start + _CHUNK]
            if pool is not None:
                self.begin(paths[start : start + 2 * _CHUNK], pool)
            inputs = [self._begun[path].result() if path in self._begun else self._input(path) for path in part]
            for name, made in self._trunk(inputs).items():
                # All at once and filled, not joined in the end: that would hold them twice.
                rows.setdefault(name, torch.empty(len(paths), *made.shape[1:], dtype=made.dtype))
                rows[name][start : start + len(part)] = made
            self.computed += len(part)
            if advance is not None:
                advance(len(part))
        if pool is not None:
            self._begun = {}  # what a network is given is large, and nobody asks for it again
        return rows

    @torch.no_grad()
    def _trunk(self, inputs: list[Tensor]) -> Rows:
        # Where the encoder learns, its trunk passes on what it is given: that is moved with the whole batch, once.
        device = next(self.encoder.parameters()).device if self.encoder.cacheable else torch.device("cpu")
        return self.encoder.trunk(torch.stack(inputs).to(device))
