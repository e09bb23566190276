"""What a reader is, and where it notes what it found wrong, skipped or repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cotune.errors import DataError
from cotune.messages import Sample


class Problems:
    """Collects what is wrong with one source, so that it is reported all at once, and counts every policy applied.

    A reader notes a problem and goes on with the next record; whoever called it raises at the end.
    """

    def __init__(self) -> None:
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

    `sniff(path)` is cheap: it looks at names and at the first bytes only. `read(path, media, problems)` yields the
    sound samples in order and notes the rest in `problems`; `media` is the folder that media paths are relative to
    (None: where the format itself says).
    """

    name: str
    describe: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path, Path | None, Problems], Iterator[Sample]]
