"""Tables read by the library `datasets`: parquet files, and data sets of the Hugging Face hub.

Parquet: a file, or a folder of `*.parquet` (also below `data/`, as the hub has them); the option `split` chooses among
files named `train-00000-of-00003.parquet` and so on. Hub: `hub:OWNER/NAME`, with the options `config`, `split` and
`streaming`. `datasets` converts what it reads to Arrow files once, which are mapped into memory and not read whole;
with `streaming` nothing is converted, and of a large data set only the rows up to `limit` are fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from cotune.data.media_store import store_folder
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.record import Record
from cotune.data.readers.rows import files_in, files_of_split, media_root, row_record, sample_of_row, samples_of_rows
from cotune.errors import DataError
from cotune.messages import Sample
from cotune.quickstart.cache import cache_folder

HUB = "hub:"


def missing_parquet(path: Path) -> str:
    """Return what keeps a path from being parquet files."""
    return "" if files_in(path, ".parquet") else "no .parquet file, nor a folder of them"


def missing_hub(path: Path) -> str:
    """Return what keeps a path from naming a data set of the hub."""
    return "" if str(path).startswith(HUB) else f"it does not begin with {HUB}"


def read_parquet(path: Path, media: Path | None, problems: Problems, *, split: str = "") -> Iterator[Sample]:
    """Yield one sample per row of the parquet files of a split; files named in it lie in `media` or beside them."""
    return samples_of_rows(parquet_rows(path, split=split), media_root(path, media), problems)


def read_hub(
    path: Path,
    media: Path | None,
    problems: Problems,
    *,
    config: str = "",
    split: str = "train",
    streaming: bool = False,
) -> Iterator[Sample]:
    """Yield one sample per row of a data set of the hub; with `streaming` only the rows asked for are fetched."""
    if not streaming:
        yield from samples_of_rows(_hub_rows(path, config, split), media or store_folder(), problems)
        return
    table = _undecoded(_from_hub(path, config, split, streaming=True))
    for number, row in enumerate(table):
        record = row_record(row, f"{path}:row {number}", number, problems)
        sample = sample_of_row(record, media or store_folder())
        if record.sound:
            yield sample


def hub_rows(path: Path, *, config: str = "", split: str = "train", streaming: bool = False) -> TableRows | None:
    """Return the rows of a data set of the hub, None when they are streamed and cannot be asked for."""
    return None if streaming else _hub_rows(path, config, split)


class TableRows:
    """The rows of a table of `datasets` by their number."""

    def __init__(self, table: Any, where: str) -> None:
        self._table, self._where = _undecoded(table), where

    def __len__(self) -> int:
        return len(self._table)

    def record(self, index: int, problems: Problems) -> Record:
        """Return a row, its pictures and sounds kept as files."""
        return row_record(self._table[index], f"{self._where}:row {index}", index, problems)


def parquet_rows(path: Path, *, split: str = "") -> TableRows:
    """Return the rows of parquet files; raises DataError when they cannot be read."""
    files = files_of_split(path, ".parquet", split)
    return TableRows(_loaded("parquet", str(path), data_files=files, split="train"), str(path))


def _loaded(what: str, where: str, **options: Any) -> Any:
    """Return a table of `datasets`; raises DataError naming the path when there is none, or the package is missing."""
    datasets = _library(where)
    try:
        return datasets.load_dataset(what, cache_dir=str(cache_folder() / "tables"), **options)
    # The library and what it reads with end in many errors, depending on the format and on the damage.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise DataError("a table cannot be read", [f"{where}: {type(error).__name__}: {reason}"]) from error


def _library(where: str) -> ModuleType:
    """Return `datasets`, which only those who read tables need."""
    try:
        return import_module("datasets")
    except ImportError as error:
        raise DataError(
            "a table cannot be read", [f"{where}: tables need another package ({error}): pip install 'cotune[data]'"]
        ) from error


def _undecoded(table: Any) -> Any:
    """Return the table with its pictures and sounds left as bytes: nothing is decoded before a batch needs it."""
    datasets = _library("")
    for name, feature in (table.features or {}).items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.Image | datasets.Audio):
            bare = type(inner)(decode=False)
            table = table.cast_column(name, bare if inner is feature else datasets.List(bare))
    return table


def _hub_rows(path: Path, config: str, split: str) -> TableRows:
    return TableRows(_from_hub(path, config, split, streaming=False), str(path))


def _from_hub(path: Path, config: str, split: str, *, streaming: bool) -> Any:
    name = str(path).removeprefix(HUB)
    return _loaded(name, str(path), name=config or None, split=split, streaming=streaming)


PARQUET_READER = Reader(
    "parquet",
    "parquet: a .parquet file or a folder of them",
    missing_parquet,
    read_parquet,
    sample_of_row,
    parquet_rows,
)
HUB_READER = Reader(
    "hub",
    "hub: a data set of the Hugging Face hub, hub:OWNER/NAME",
    missing_hub,
    read_hub,
    sample_of_row,
    hub_rows,
)
