"""What an encoder's frozen trunk makes of each picture or sound, computed once and kept on disk and in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cotune.data.media import load_image
from cotune.messages import AUDIO
from cotune.model.encoders import FeatureEncoder

Load = Callable[[Path], Any]
Advance = Callable[[int], None]
_CHUNK = 64
# Bytes of all stored rows together, of all encoders; the folder is the user's, and nobody looks into it.
_MOST_STORED = 20 * 10**9


def loader(encoder: FeatureEncoder) -> Load:
    """Return what loads a file for an encoder: an RGB picture, or a sound at the encoder's own sample rate."""
    if encoder.medium != AUDIO:
        return load_image
    from cotune.data.sound import load_sound

    return partial(load_sound, sample_rate=encoder.sample_rate, max_seconds=encoder.max_seconds)


class FeatureCache:
    """Rows of trunk outputs by file; called with any pictures or sounds, it computes those it has not seen.

    Stored under the encoder's fingerprint and the files' contents, so a changed file or encoder is computed again. Of
    more than 20 GB in `folder`, what was not used for longest is deleted. An encoder that learns as a whole has nothing
    to store: its input is made for every batch.
    """

    def __init__(self, encoder: FeatureEncoder, folder: Path | None, load: Load | None = None) -> None:
        self.encoder, self.load = encoder, load or loader(encoder)
        self.folder = folder / encoder.fingerprint if folder is not None else None
        self.computed = 0
        self.not_stored = ""
        self._row: dict[Path, int] = {}
        self._rows: dict[str, Tensor] = {}
        self._begun: dict[Path, Future[Tensor]] = {}

    def begin(self, paths: Sequence[Path], pool: Executor) -> None:
        """Begin to load files in the threads of a pool; what was begun for other files is dropped.

        Nothing is begun for files whose rows are kept. An error of loading is raised where the file is asked for.
        """
        unknown = [path for path in paths if path not in self._row]
        self._begun = {path: self._begun.get(path) or pool.submit(self._input, path) for path in unknown}

    def _input(self, path: Path) -> Tensor:
        """Return the network's input for a file, without the batch axis."""
        return self.encoder.preprocess(self.load(path))

    def prepare(self, paths: Sequence[Path], advance: Advance | None = None) -> None:
        """Load or compute the rows of a set of files, and store them for the next run.

        Each folder's files are stored together, in the order of their names: another seed, which splits them
        otherwise, or a run that only scores the test set, finds them again.
        """
        paths = sorted({path for path in paths if path not in self._row}, key=lambda path: (path.parent, path.name))
        if not paths or not self.encoder.cacheable:
            return
        parts = [self._folder_rows(list(group), advance) for _, group in groupby(paths, key=lambda path: path.parent)]
        start = len(self._row)
        self._row |= {path: start + offset for offset, path in enumerate(paths)}
        if start:
            parts.insert(0, self._rows)
        self._rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _folder_rows(self, paths: Sequence[Path], advance: Advance | None) -> dict[str, Tensor]:
        stored = self._stored_file(paths)
        rows = _read(stored, len(paths))
        if stored is not None and rows is not None:
            _note_use(stored)
            if advance is not None:
                advance(len(paths))
            return rows
        rows = self._compute(paths, advance)
        if stored is not None:
            self.not_stored = _write(stored, rows) or self.not_stored
            make_room(stored.parent.parent, _MOST_STORED, stored)
        return rows

    def rows(self, paths: Sequence[Path]) -> dict[str, Tensor]:
        """Return the trunk's output for files in order, one row each."""
        if all(path in self._row for path in paths):
            index = torch.tensor([self._row[path] for path in paths], dtype=torch.long)
            return {name: rows[index] for name, rows in self._rows.items()}
        return self._compute(paths, None)

    __call__ = rows

    @torch.no_grad()
    def _compute(self, paths: Sequence[Path], advance: Advance | None) -> dict[str, Tensor]:
        # Where the encoder learns, its trunk passes on what it is given: that is moved with the whole batch, once.
        device = next(self.encoder.parameters()).device if self.encoder.cacheable else torch.device("cpu")
        chunks = []
        for start in range(0, len(paths), _CHUNK):
            part = paths[start : start + _CHUNK]
            inputs = [self._begun[path].result() if path in self._begun else self._input(path) for path in part]
            trunk = self.encoder.trunk(torch.stack(inputs).to(device))
            chunks.append({name: rows.cpu() for name, rows in trunk.items()})
            self.computed += len(inputs)
            if advance is not None:
                advance(len(inputs))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _stored_file(self, paths: Sequence[Path]) -> Path | None:
        if self.folder is None:
            return None
        digest = hashlib.sha256()
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return self.folder / f"{digest.hexdigest()[:24]}.safetensors"


def _read(file: Path | None, count: int) -> dict[str, Tensor] | None:
    """Return stored rows, or None when there are none or the file is damaged."""
    if file is None or not file.exists():
        return None
    try:
        rows: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError):
        return None
    return rows if rows and all(len(tensor) == count for tensor in rows.values()) else None


def _write(file: Path, rows: dict[str, Tensor]) -> str:
    """Store rows and return why that failed, if it did: a full disk costs only the cache, never the run."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")  # two runs may store the same pictures at once
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in rows.items()}, temporary)
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        return str(error)
    return ""


def _note_use(file: Path) -> None:
    """Make a file the last used: its time of change is what `make_room` goes by."""
    with suppress(OSError):
        os.utime(file)


def make_room(folder: Path, most: int, newest: Path) -> None:
    """Delete stored rows, those first that were not used for longest, until `folder` holds at most `most` bytes.

    `newest` stays: it is in use. Another process may delete at the same time, or read: it computes again what is gone.
    """
    found = []
    for file in folder.glob("*/*.safetensors"):
        with suppress(OSError):
            about = file.stat()
            found.append((about.st_mtime, about.st_size, file))
    held = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if held <= most:
            return
        if file != newest:
            with suppress(OSError):
                file.unlink()
            held -= size
