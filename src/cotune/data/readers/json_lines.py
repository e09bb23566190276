"""JSONL files too large to hold: of each line only its place is kept, and it is read when it is asked for."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cotune.data.readers.base import Problems
from cotune.data.readers.json_files import parse_json, peek
from cotune.data.readers.record import Record, as_record

# A larger JSONL file is not held as samples: they take about three times the room of their lines.
LARGE_BYTES = 256 * 2**20


class Rows(Protocol):
    """The records of a source by their number, read when asked for."""

    def __len__(self) -> int: ...

    def record(self, index: int, problems: Problems) -> Record | None:
        """Return a record, or None with a problem noted."""
        ...


class JsonLines:
    """The lines of a JSONL file by their number; of each only the place is kept, 16 bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts, self._numbers = array("Q"), array("Q")
        place = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    self._starts.append(place)
                    self._numbers.append(number)
                place += len(line)
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._starts)

    def record(self, index: int, problems: Problems) -> Record | None:
        """Return the object of a line, or None with a problem noted."""
        self._file = self._file or self.path.open("rb")
        self._file.seek(self._starts[index])
        number = self._numbers[index]
        sound, value = parse_json(self._file.readline().strip(), self.path, number, problems)
        return as_record(value, f"{self.path}:{number}", number, problems) if sound else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file cannot be handed to another process


def large_json_lines(path: Path) -> JsonLines | None:
    """Return the lines of a JSONL file that is too large to hold as samples, else None."""
    if not path.is_file() or path.stat().st_size < LARGE_BYTES:
        return None
    start = peek(path)
    # A list is one JSON value: it has no lines that stand by themselves. Nor has an object over several lines.
    return JsonLines(path) if start[:1] == "{" and start.partition("\n")[0].strip() != "{" else None
