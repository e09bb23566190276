"""Numbers over steps as a figure needs them: without gaps, few enough to draw, and with the band of their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from cotune.trace import Row

Points = list[tuple[float, float]]

# Of a normal distribution, 95% lies within so many standard deviations.
_SIGMAS = 1.96


@dataclass(frozen=True)
class Bucket:
    """Neighbouring points as one: the mean of their steps and values, the least and the largest value."""

    step: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """A running average and its noise, 95% to either side: of a single value (`single`), of the average (`average`)."""

    value: float
    single: float
    average: float


def column(rows: Sequence[Row], *keys: str) -> Points:
    """Return (step, number) of the rows that hold a finite number under nested keys."""
    found = ((row["step"], _value(row, keys)) for row in rows)
    return [
        (step, float(value)) for step, value in found if isinstance(value, int | float) and math.isfinite(float(value))
    ]


def thinned(points: Points, most: int = 240) -> list[Bucket]:
    """Return at most `most` buckets of equally many neighbouring points (the last may hold fewer)."""
    size = max(1, -(-len(points) // most))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        Bucket(
            sum(step for step, _ in part) / len(part),
            sum(value for _, value in part) / len(part),
            min(value for _, value in part),
            max(value for _, value in part),
        )
        for part in parts
    ]


def centred(values: Sequence[float], share: float = 0.04) -> list[float]:
    """Return the moving average over neighbours to both sides, `share` of the series together, fewer at its ends.

    As many to the left as to the right: unlike a running average it does not lag behind.
    """
    sums = [0.0, *accumulate(values)]
    most = round(share * len(values) / 2)
    averages = []
    for place in range(len(values)):
        reach = min(most, place, len(values) - 1 - place)
        averages.append((sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1))
    return averages


def noise_bands(values: Sequence[float], memory: float, window: int = 20) -> list[Band]:
    """Return, after every value, the exponential running average with that memory and the bands of its noise.

    The noise of a single value is taken from neighbours: half the mean square of the newest `window` differences (von
    Neumann, 1941), which a slow trend leaves alone. The average's is smaller by the root of the sum of its squared
    weights, for noise that is independent from value to value. Both are 0 for the first value.
    """
    total = weight = squares = 0.0
    differences = [(b - a) ** 2 for a, b in pairwise(values)]
    bands = []
    for index, value in enumerate(values):
        total, weight, squares = memory * total + value, memory * weight + 1.0, memory**2 * squares + 1.0
        newest = differences[max(0, index - window) : index]
        deviation = math.sqrt(sum(newest) / len(newest) / 2) if newest else 0.0
        bands.append(Band(total / weight, _SIGMAS * deviation, _SIGMAS * deviation * math.sqrt(squares) / weight))
    return bands


def _value(row: Row, keys: Sequence[str]) -> Any:
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found
