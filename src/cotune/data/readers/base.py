"""What a reader is, what it may touch, and where it notes what it found wrong, skipped or repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotune.errors import DataError
from cotune.messages import Sample

if TYPE_CHECKING:
    from cotune.data.readers.json_lines import Rows
    from cotune.data.readers.record import Record


@dataclass(frozen=True, slots=True)
class Access:
    """What the records of a source may name: files outside of its media folder, and URLs, are refused by default."""

    outside_root: bool = False
    urls: bool = False


class Problems:
    """Collects what is wrong with one source, so that it is reported all at once, and counts every policy applied.

    A reader notes a problem and goes on with the next record; whoever called it raises at the end. `access` says what
    the records may name.
    """

    def __init__(self, access: Access | None = None) -> None:
        self.access = access or Access()
        self.found: list[str] = []
        self.counts: Counter[str] = Counter()

    def add(self, where: str, message: str, *, sample: str | None = None) -> None:
        """Note one problem: the place (`file:line`), the sample's id if it has one, what is wrong and what to do."""
        named = f"sample '{sample}': " if sample is not None else ""
        self.found.append(f"{where}: {named}{message}")

    def count(self, what: str, number: int = 1) -> None:
        """Count something skipped or repaired; `what` is a phrase that can stand in a report."""
        self.counts[what] += number

    def raise_if_any(self, title: str) -> None:
        """Raise a DataError with every problem noted so far, or do nothing when there is none."""
        if self.found:
            raise DataError(title, self.found)


@dataclass(frozen=True, slots=True)
class Reader:
    """One data format: what it looks like, how to recognise it and how to read it.

    `missing(path)` says what keeps a path from being in this format, empty when nothing does; it is cheap: it looks at
    names and at the first bytes (and last) only. `read(path, media, problems, **options)` yields the sound samples in
    order and notes the rest in `problems`; `media` is the folder that media paths are relative to (None: where the
    format itself says), the options are its keyword parameters.

    `sample(record, root)` is there where every record is a sample by itself: then a large source is not held in memory,
    only the places of its records are. Where `ids_may_repeat`, a repeated id is made unique and counted, not refused.
    """

    name: str
    describe: str
    missing: Callable[[Path], str]
    read: Callable[..., Iterator[Sample]]
    sample: Callable[[Record, Path], Sample] | None = None
    rows: Callable[..., Rows | None] | None = None
    ids_may_repeat: bool = False

    def sniff(self, path: Path) -> bool:
        """Return whether the path looks like this format."""
        return not self.missing(path)
