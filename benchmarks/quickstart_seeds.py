"""Summarise quickstart runs of several seeds: mean and spread of every accuracy, as a table and a JSON.

cotune quickstart --seed 0 --output runs/s0     # and seeds 1 and 2
python benchmarks/quickstart_seeds.py runs/s0 runs/s1 runs/s2
python benchmarks/quickstart_seeds.py --name quickstart_400_steps runs/short
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from measuring import result, write
from rich.console import Console

from cotune.progress import table
from cotune.run_folder import RunFolder

SCORES = ("accuracy", "open_accuracy", "yes_no_accuracy", "color_accuracy", "shape_accuracy", "text_kl")
COSTS = ("seconds", "wall_seconds", "tokens_per_second", "peak_memory_bytes", "padding_share")


def summarise(results: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return means, smallest and largest values over the runs, with machine, versions and date."""

    def spread(key: str) -> dict[str, float]:
        values = [float(run[key]) for run in results]
        return {"mean": statistics.fmean(values), "smallest": min(values), "largest": max(values)}

    return result(
        name,
        {"scores": {key: spread(key) for key in SCORES}, "costs": {key: spread(key) for key in COSTS}},
        seeds=[run["seed"] for run in results],
        steps=results[0]["steps"],
        trainable_parameters=results[0]["trainable_parameters"],
        baselines={
            baseline: next((r["baselines"][baseline] for r in results if r["baselines"][baseline]), None)
            for baseline in results[0]["baselines"]
        },
    ) | {"versions": results[0]["versions"]}


def main() -> None:
    """Read the runs, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--name", default="quickstart")
    parser.add_argument("--note", default="", help="what a reader must know about these runs")
    arguments = parser.parse_args()
    summary = summarise([RunFolder(path).read_result() for path in arguments.runs], arguments.name)
    summary["note"] = arguments.note
    rows = [
        [key, *(f"{values[part]:.4g}" for part in ("mean", "smallest", "largest"))]
        for key, values in (summary["scores"] | summary["costs"]).items()
    ]
    Console().print(table(f"{arguments.name}, seeds {summary['seeds']}", ["", "mean", "smallest", "largest"], rows))
    Console().print(f"written: {write(summary)}")


if __name__ == "__main__":
    main()
