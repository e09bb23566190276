"""Webdataset: archives (`.tar`) in which neighbouring files that share their name up to the first dot are one row.

`0001.jpg` and `0001.txt` make a row with the columns `jpg` and `txt`; what `0001.json` holds becomes columns of its own
(Aizman et al. 2020, arXiv 2001.01858). Of each file only the place in its archive is kept, and it is read when its row
is asked for. `datasets` reads these archives too, but writes all of them to disk once more, and sounds only with
torchcodec.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.captions import PICTURE_SUFFIXES, SOUND_SUFFIXES
from cotune.data.readers.record import Record
from cotune.data.readers.rows import files_in, files_of_split, media_root, row_record, sample_of_row, samples_of_rows
from cotune.errors import DataError
from cotune.messages import Sample

TEXT_ENDINGS = frozenset((".txt", ".text", ".caption", ".cls"))


class Row(NamedTuple):
    """One row: its archive, its name, and of each file its ending, its place and its length."""

    archive: int
    name: str
    members: tuple[tuple[str, int, int], ...]


def missing(path: Path) -> str:
    """Return what keeps a path from being webdataset archives."""
    return "" if files_in(path, ".tar") else "no .tar file, nor a folder of them"


def read(path: Path, media: Path | None, problems: Problems, *, split: str = "") -> Iterator[Sample]:
    """Yield one sample per row of the archives of a split (`train-0000.tar` and so on)."""
    return samples_of_rows(ArchiveRows(path, split=split), media_root(path, media), problems)


class ArchiveRows:
    """The rows of some archives by their number; opening reads the names in them, not the files.

    Raises:
        DataError: when there is no archive of that split, or one is compressed, cut off or none.
    """

    def __init__(self, path: Path, *, split: str = "") -> None:
        self.archives = files_of_split(path, ".tar", split)
        self._rows: list[Row] = []
        for number, archive in enumerate(self.archives):
            try:
                with tarfile.open(archive, "r:") as file:
                    self._rows += _grouped(file, number)
            except (tarfile.TarError, OSError, EOFError) as error:
                problem = f"{archive}: no whole uncompressed tar archive ({error})"
                raise DataError("an archive cannot be read", [problem]) from error

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int, problems: Problems) -> Record:
        """Return a row, its pictures and sounds kept as files."""
        row = self._rows[index]
        cells: dict[str, Any] = {"__key__": row.name}
        origin = f"{self.archives[row.archive]}:{row.name}"
        with Path(self.archives[row.archive]).open("rb") as file:
            for ending, start, length in row.members:
                file.seek(start)
                cells[ending] = _cell(ending, file.read(length), f"{row.name}.{ending}", origin, problems)
        return row_record(cells, origin, index, problems)


def _grouped(file: tarfile.TarFile, archive: int) -> Iterator[Row]:
    """Yield the rows of an archive: neighbours that share the folder and the name up to its first dot."""
    name = ""
    members: list[tuple[str, int, int]] = []
    for entry in file:
        folder, _, base = entry.name.rpartition("/")
        stem, dot, ending = base.partition(".")
        if not entry.isfile() or not dot or not stem:
            continue
        own = f"{folder}/{stem}" if folder else stem
        if own != name and members:
            yield Row(archive, name, tuple(members))
            members = []
        name = own
        members.append((ending.lower(), entry.offset_data, entry.size))
    if members:
        yield Row(archive, name, tuple(members))


def _cell(ending: str, content: bytes, name: str, origin: str, problems: Problems) -> Any:
    """Return what a file of a row says: text, a JSON value, or a picture or sound as bytes."""
    last = f".{ending.rpartition('.')[2]}"
    if last in PICTURE_SUFFIXES | SOUND_SUFFIXES:
        return {"bytes": content, "path": name}
    if last not in TEXT_ENDINGS | {".json"}:
        problems.count(f"files of archives that are neither media nor text ({last}), not read")
        return None
    try:
        text = content.decode()
        return json.loads(text) if last == ".json" else text
    except ValueError as error:
        problems.add(origin, f"{name}: neither text nor JSON ({error})")
        return None


READER = Reader("webdataset", "webdataset: a .tar file or a folder of them", missing, read, sample_of_row, ArchiveRows)
