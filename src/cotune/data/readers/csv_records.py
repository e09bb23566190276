"""Records of CSV files: one row each, its cells under the names of the first line (RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.base import Problems
from cotune.data.readers.json_files import peek
from cotune.data.readers.record import Record

NOT_UTF8 = "files read as Latin-1, because they are not UTF-8"


def columns(path: Path) -> list[str]:
    """Return the names in the first line of a CSV file, none when it is no such file."""
    if not path.is_file():
        return []
    try:
        return [name.strip() for name in next(csv.reader(peek(path).splitlines()[:1]), [])]
    except csv.Error:
        return []


def missing_columns(path: Path, *wanted: str) -> str:
    """Return which columns a CSV file lacks, empty when it has them all."""
    if not path.is_file():
        return "not a file"
    found = columns(path)
    missing = [name for name in wanted if name not in found]
    return f"its first line names no column {' and no '.join(map(repr, missing))}" if missing else ""


def read_csv(path: Path, problems: Problems) -> Iterator[Record]:
    """Yield the rows of a CSV file, texts under the names of their columns; other rows are noted as problems."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        problems.count(NOT_UTF8)
    rows = csv.reader(io.StringIO(text, newline=""))
    names: list[str] = []
    number = 0
    try:
        for row in rows:
            if not names:
                names = [name.strip() for name in row]
            elif len(row) == len(names):
                number += 1
                yield Record(dict(zip(names, row, strict=True)), f"{path}:{rows.line_num}", number, problems)
            elif row:
                problems.add(f"{path}:{rows.line_num}", f"{len(row)} cells under {len(names)} columns; mend the quotes")
    except csv.Error as error:
        problems.add(f"{path}:{rows.line_num}", f"no CSV: {error}")
