"""Made rows by their number: processor seconds of reading, shuffling and going on, and the index's bytes."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from curve import Curve

from cotune.data.batching import Batches
from cotune.data.composing import Budget
from cotune.data.drawing import Drawer
from cotune.data.readers import json_lines
from cotune.data.sources import read_source
from cotune.data.template import IGNORED, Encoded
from cotune.data.too_long import TooLong
from cotune.messages import Sample
from cotune.progress import make_console, progress
from cotune.recipe import Source


def write_rows(file: Path, count: int) -> None:
    """Write that many short conversations as chat JSONL."""
    with file.open("w", encoding="utf-8") as rows:
        for number in range(count):
            turns = [{"role": "user", "content": f"what is {number}?"}, {"role": "assistant", "content": f"{number}"}]
            rows.write(json.dumps({"id": str(number), "messages": turns}) + "\n")


def index_bytes(thing: object) -> int:
    """Return the bytes of all arrays that samples hold: places, line numbers, which are sound."""
    held, left, seen = 0, [thing], set()
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        held += sys.getsizeof(found) if isinstance(found, array) else 0
        left += [cell.cell_contents for cell in getattr(found, "__closure__", None) or ()]
        left += getattr(found, "__dict__", {}).values() if not isinstance(found, type) else []
    return held


def read_once(file: Path) -> dict[str, float]:
    """Return the seconds of indexing a file, of shuffling it, and of going on in the middle, and the index's bytes."""
    started = time.process_time()
    samples = read_source(file, reader="chat").samples
    indexed = time.process_time() - started
    batches = _batches(samples)
    started = time.process_time()
    next(batches)
    shuffled = time.process_time() - started
    state = batches.state_dict() | {"before": {"number": 0, "drawn": [len(samples) // 2], "too_long": _NOTHING}}
    batches = _batches(samples)
    started = time.process_time()
    batches.load_state_dict(state)
    next(batches)
    return {
        "index": indexed,
        "shuffle": shuffled,
        "resume": time.process_time() - started,
        "memory": float(index_bytes(samples)),
    }


_NOTHING: dict[str, Any] = {"counts": {}, "named": []}


def _batches(samples: Sequence[Sample]) -> Batches:
    """Return batches of samples that are not tokenised: only drawing is looked at."""

    def encode(sample: Sample) -> Encoded:
        return Encoded([0] * 8, [IGNORED] * 8, [], sample)

    drawer = Drawer(samples, Source(path="made"), seed=0)
    return Batches([drawer], encode, TooLong("drop", None, 100), budget=Budget(16), pool=4, seed=0)  # type: ignore[arg-type]


def data_curves(rows: Sequence[int], rounds: int) -> dict[str, Curve]:
    """Return the curves of reading made rows, by place however few they are."""
    console = make_console()
    found: dict[str, list[list[float]]] = {name: [] for name in ("index", "shuffle", "resume", "memory")}
    large, json_lines.LARGE_BYTES = json_lines.LARGE_BYTES, 0
    try:
        with tempfile.TemporaryDirectory() as folder, progress(console, "Rows", len(rows) * rounds, "files") as advance:
            for count in rows:
                file = Path(folder) / f"{count}.jsonl"
                write_rows(file, count)
                each = []
                for _ in range(rounds):
                    each.append(read_once(file))
                    advance(1)
                for name, values in found.items():
                    values.append([once[name] for once in each])
    finally:
        json_lines.LARGE_BYTES = large
    at = [float(count) for count in rows]
    titles = {
        "index": ("reading and checking by rows", "processor s"),
        "shuffle": ("first draw by rows", "processor s"),
        "resume": ("going on by rows", "processor s"),
        "memory": ("index by rows", "bytes"),
    }
    return {
        f"data_{name}": Curve(title, unit, at, list(map(median, found[name])), at, "in proportion", found[name])
        for name, (title, unit) in titles.items()
    }
