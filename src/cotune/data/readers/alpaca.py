"""The Alpaca format: an instruction, an optional input and an output; text only.

It is that of `alpaca_data.json` (Taori et al. 2023, Stanford Alpaca), with an optional system message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import missing_keys, read_records
from cotune.data.readers.json_lines import large_json_lines
from cotune.data.readers.record import Record
from cotune.messages import Message, Sample, Text, question_answer

KEYS = ("instruction", "input", "output", "system")


def missing(path: Path) -> str:
    """Return what keeps the first record of the file from holding an instruction and an output."""
    return missing_keys(path, "instruction", "output")


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per record; the input follows the instruction after a blank line."""
    if media is not None:
        problems.add(str(path), "this format has no media; leave `media` out")
    for record in read_records(path, problems):
        sample = sample_of(record, path.parent)
        if record.sound:
            yield sample


def sample_of(record: Record, root: Path) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound."""
    given = record.optional_text("input")
    question = record.text("instruction") + (f"\n\n{given}" if given.strip() else "")
    sample = question_answer(record.id, question, record.text("output"), origin=record.origin, meta=record.meta(KEYS))
    system = record.optional_text("system")
    if not system.strip():
        return sample
    return replace(sample, messages=(Message("system", (Text(system),)), *sample.messages))


READER = Reader(
    "alpaca",
    'Alpaca: JSON or JSONL of {"instruction", "input", "output"}, text only',
    missing,
    read,
    sample=sample_of,
    rows=large_json_lines,
)
