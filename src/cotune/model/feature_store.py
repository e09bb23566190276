"""What encoders made of pictures and sounds, on disk: a bounded folder of files with some hundred rows each.

A file is named by the contents of the media it was made of, so that it is found by every run that uses them, and never
for others. Its rows are mapped into memory, not read: they take room in the system's cache, which it gives up when it
needs it, and are shared by all processes of a machine.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Rows = dict[str, Tensor]
# A block is stored, computed and divided among processes as a whole.
_USUAL, _MOST = 128, 512
_ENOUGH_OF_A_FOLDER = 32


class FeatureStore:
    """Rows of encoders in `folder`, of which `most` bytes stay; what was not used for longest goes first.

    The folder is looked at after every hundredth of `most` written, so it may hold that much more. `in_use` counts the
    bytes this object has handed out. `failure` says why the last write failed, if one did: a full disk costs only the
    storing, never the run.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.in_use = 0
        self.failure = ""
        self._unnoticed = most  # bytes written since the folder was last looked at; the first write looks

    def file_of(self, fingerprint: str, paths: Sequence[Path]) -> Path:
        """Return where the rows of some media belong, by what the files hold."""
        digest = hashlib.sha256()
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return self.folder / fingerprint / f"{digest.hexdigest()[:24]}.safetensors"

    def read(self, file: Path, count: int) -> Rows | None:
        """Return `count` stored rows, mapped into memory; None when there are none or the file is damaged."""
        rows = _rows_in(file)
        if not rows or any(len(tensor) != count for tensor in rows.values()):
            return None
        with suppress(OSError):
            os.utime(file)  # its time of change is what `_make_room` goes by
        self.in_use += size_of(rows)
        return rows

    def write(self, file: Path, rows: Rows) -> bool:
        """Store rows and return whether that went well; `failure` says why not."""
        temporary = file.with_suffix(f".{os.getpid()}.tmp")  # two runs may store the same pictures at once
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in rows.items()}, temporary)
            temporary.replace(file)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink()
            self.failure = str(error)
            return False
        self._unnoticed += size_of(rows)
        if self._unnoticed >= self.most // 100:
            self._make_room(file)
            self._unnoticed = 0
        return True

    def row_size(self, fingerprint: str) -> int | None:
        """Return the bytes of one stored row of an encoder, or None where nothing of it is stored."""
        for file in (self.folder / fingerprint).glob("*.safetensors"):
            if rows := _rows_in(file):
                return size_of(rows) // len(next(iter(rows.values())))
        return None

    def _make_room(self, newest: Path) -> None:
        """Delete stored rows, those first that were not used for longest, until the folder holds no more than it may.

        `newest` stays: it is in use. Another process may delete at the same time, or read: what it has mapped stays
        its own, and what is gone it computes again.
        """
        found = []
        for file in self.folder.glob("*/*"):  # also what a killed process left half written
            with suppress(OSError):
                about = file.stat()
                found.append((about.st_mtime, about.st_size, file))
        held = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if held <= self.most:
                return
            if file != newest:
                with suppress(OSError):
                    file.unlink()
                held -= size


def size_of(rows: Rows) -> int:
    """Return the bytes of some rows."""
    return sum(tensor.nbytes for tensor in rows.values())


def blocks_of(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield sorted paths in blocks that hardly change when files come or go.

    A block ends where a file's own name says so, every 128th time on average: a file more or less changes the block it
    lies in, and no other one. It also ends with a folder, unless it would be small, and at 512 files.
    """
    block: list[Path] = []
    places = [os.path.split(path) for path in paths]  # a Path's own parts take ten times as long
    for path, (folder, name), (next_folder, _) in zip(paths, places, [*places, ("", "")][1:], strict=True):
        block.append(path)
        folder_ends = next_folder != folder and len(block) >= _ENOUGH_OF_A_FOLDER
        if folder_ends or len(block) == _MOST or _ends_a_block(folder, name):
            yield block
            block = []
    if block:
        yield block


def _ends_a_block(folder: str, name: str) -> bool:
    """Return whether a block ends behind a file. Its folder's own name counts: many data sets name files alike."""
    return zlib.crc32(os.fsencode(f"{folder.rpartition(os.sep)[2]}/{name}")) % _USUAL == 0


def _rows_in(file: Path) -> Rows | None:
    """Return the tensors of a file, or None when there is none or it is damaged."""
    try:
        rows: Rows = load_file(file)
    except (SafetensorError, OSError):
        return None
    return rows
