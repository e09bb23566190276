"""What the benchmarks share: assets, rounds that take turns, medians, and a result with machine, versions and date."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cotune.training.quickstart import ASSETS
from cotune.training.result import versions

__all__ = ["ASSETS", "RESULTS", "Rounds", "command", "machine", "read", "result", "seconds", "take_turns", "write"]

RESULTS = Path(__file__).parent / "results"

# The numbers of every round, by what was measured.
Rounds = dict[str, list[float]]


def command(description: str | None, *, rounds: int = 5, quick: str = "fewer and smaller rounds, for a look") -> Any:
    """Return the parser of a benchmark's command line: --rounds, --quick and --output."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--output", type=Path, help="JSON to write; default benchmarks/results/NAME.json, of a look a temporary file"
    )
    return parser


def read(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return what a benchmark's command line says; a look without --output never replaces the result that is kept."""
    arguments = parser.parse_args()
    if arguments.quick and arguments.output is None:
        arguments.output = Path(tempfile.mkdtemp(prefix="cotune-look-")) / "look.json"
    return arguments


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on; the load average tells whether it was busy with other work."""
    found: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found | {"load_average": [round(value, 2) for value in os.getloadavg()]}


def processor() -> str:
    """Return the processor's name, or its architecture where the system does not tell it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def result(name: str, ratios: Mapping[str, Any], **details: Any) -> dict[str, Any]:
    """Return a benchmark's result: its name, the date and its ratios first, then where and with what, then the rest."""
    about = {"machine": machine(), "threads": torch.get_num_threads(), "versions": versions()}
    return {"benchmark": name, "date": datetime.date.today().isoformat(), **ratios, **about, **details}


def write(found: Mapping[str, Any], output: Path | None = None) -> Path:
    """Write a result, by default to `benchmarks/results/NAME.json`, and return the file."""
    target = output or RESULTS / f"{found['benchmark']}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return target


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes, with all that a GPU was given to do."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def take_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Return what every way gives, round by round; each round begins with another one.

    A machine that slows down slows all of them.
    """
    names, found = list(ways), {name: [] for name in ways}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            found[name].append(ways[name]())
    return found


def medians(found: Rounds) -> dict[str, float]:
    """Return the median over the rounds."""
    return {name: statistics.median(values) for name, values in found.items()}


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of one value divided by the other of the same round."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
