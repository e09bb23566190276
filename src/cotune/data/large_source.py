"""Sources too large to hold: every record is read and checked once, and after that only its place is kept.

Eight bytes for its place, eight for the number of its line, eight for where it stands among the sound ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cotune.data.lazy_samples import LazySamples
from cotune.data.readers import Problems, Reader
from cotune.data.readers.json_lines import Rows
from cotune.data.readers.repeated_ids import IDS_REPEATED, numbered
from cotune.data.sample_checks import check, note_repeated
from cotune.messages import Sample

# Called with how many records are done, and of how many.
Progress = Callable[[int, int], None]


def large_source(
    reader: Reader,
    path: Path,
    media: Path | None,
    problems: Problems,
    limit: int | None,
    options: Mapping[str, Any],
    progress: Progress | None = None,
) -> Sequence[Sample] | None:
    """Return the sound samples of a source that is not held, or None for one that can be read as a list."""
    rows = reader.rows(path, **options) if reader.rows is not None and reader.sample is not None else None
    if rows is None or reader.sample is None:
        return None
    root = media or (path if path.is_dir() else path.parent)
    kept, ids = array("Q"), array("q")
    for index in range(len(rows)):
        if limit is not None and len(kept) >= limit:
            break
        if progress is not None:
            progress(index + 1, len(rows))
        record = rows.record(index, problems)
        if record is None:
            continue
        sample = reader.sample(record, root)
        if record.sound:
            check(sample, problems)
            kept.append(index)
            ids.append(hash(sample.id))
    times = _times_used(ids)
    repeated = {index: int(times[index]) for index in np.flatnonzero(times > 1).tolist()}
    if repeated and reader.ids_may_repeat:
        problems.count(IDS_REPEATED, len(repeated))

    def at(index: int) -> Sample:
        record = rows.record(kept[index], Problems(problems.access))
        assert record is not None and reader.sample is not None
        return numbered(reader.sample(record, root), repeated.get(index, 1))

    if not reader.ids_may_repeat:
        _note_repeated(rows, kept, ids, sorted(repeated), at, problems)
    return LazySamples(len(kept), at)


def _times_used(ids: array[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return for each id how often it was used up to its place: 1 where it is new."""
    values = np.frombuffer(ids, dtype=np.int64) if len(ids) else np.zeros(0, np.int64)
    order = np.argsort(values, kind="stable")
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[order][1:] != values[order][:-1]
    starts = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    times = np.empty(len(values), np.int64)
    times[order] = np.arange(len(values)) - starts + 1
    return times


def _note_repeated(
    rows: Rows, kept: array[int], ids: array[int], repeated: Sequence[int], at: Any, problems: Problems
) -> None:
    """Note every id that was used before, with both places."""
    firsts = {ids[index]: -1 for index in repeated}
    for index, own in enumerate(ids):
        if firsts.get(own) == -1:
            firsts[own] = index
    for index in repeated:
        sample, first = at(index), at(firsts[ids[index]])
        note_repeated(sample.origin, first.id, first.origin, problems)
