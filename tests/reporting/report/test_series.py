"""Numbers over steps: laws of thinning, averaging and noise, against naive formulas."""

import math
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.reporting.report.series import centred, column, noise_bands, thinned

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)


def test_a_column_leaves_out_what_is_missing_or_infinite() -> None:
    rows = [{"step": 1, "a": {"b": 2}}, {"step": 2, "a": {}}, {"step": 3, "a": {"b": math.inf}}, {"step": 4}]
    assert column(rows, "a", "b") == [(1, 2.0)]


@given(NUMBERS, st.integers(1, 20))
def test_thinning_keeps_the_mean_the_extremes_and_the_order(values: list[float], most: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    buckets = thinned(points, most)
    assert len(buckets) <= most
    assert min(bucket.low for bucket in buckets) == min(values)
    assert max(bucket.high for bucket in buckets) == max(values)
    size = -(-len(values) // most)
    counts = [len(values[start : start + size]) for start in range(0, len(values), size)]
    weighted = sum(count * bucket.mean for count, bucket in zip(counts, buckets, strict=True))
    assert weighted / len(values) == pytest.approx(fmean(values), abs=1e-9)
    steps = [bucket.step for bucket in buckets]
    assert steps == sorted(steps)


@given(st.integers(1, 80), st.floats(-5, 5), st.floats(0.0, 1.0))
def test_a_straight_line_stays_where_it_is(length: int, slope: float, share: float) -> None:
    line = [slope * step for step in range(length)]
    assert centred(line, share) == pytest.approx(line, abs=1e-9)


def test_a_jump_is_not_moved_to_the_right() -> None:
    smooth = centred([0.0] * 50 + [1.0] * 50, 0.2)
    assert smooth[49] + smooth[50] == pytest.approx(1.0)  # half-way between the two, not later
    assert smooth == sorted(smooth)


@given(NUMBERS, st.floats(0.0, 1.0))
def test_bands_are_the_formula_written_out(values: list[float], memory: float) -> None:
    for index, band in enumerate(noise_bands(values, memory, window=4)):
        weights = [memory ** (index - place) for place in range(index + 1)]
        mean = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert band.value == pytest.approx(mean, abs=1e-6)
        squares = [(values[place + 1] - values[place]) ** 2 for place in range(index)][-4:]
        deviation = math.sqrt(fmean(squares) / 2) if squares else 0.0
        assert band.single == pytest.approx(1.96 * deviation, abs=1e-9)
        smaller = math.sqrt(sum(w**2 for w in weights)) / sum(weights)
        assert band.average == pytest.approx(1.96 * deviation * smaller, abs=1e-6)


def test_the_band_of_white_noise_holds_95_percent_of_it() -> None:
    import random

    source = random.Random(0)
    values = [source.gauss(0.0, 2.0) for _ in range(4000)]
    bands = noise_bands(values, 0.97)[100:]
    inside = [abs(value - band.value) < band.single for value, band in zip(values[100:], bands, strict=True)]
    assert 0.90 < fmean(inside) < 0.97
