"""The benchmark of growth: exponents of known curves, what a step keeps and computes, what an index holds."""

import json

import growth
import numpy as np
import pytest
from curve import Curve, draw, exponent
from growth_rows import data_curves, index_bytes, write_rows
from growth_steps import LAYERS, VOCABULARY, Shape, Step, model_curves
from hypothesis import given
from hypothesis import strategies as st

from cotune.data.sources import read_source


@given(st.floats(-1, 3), st.floats(0.01, 100))
def test_the_exponent_of_a_power_is_found(power, factor):
    sizes = [10.0, 30.0, 200.0]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-6)


def test_a_picture_shows_every_curve(tmp_path):
    curves = {name: Curve(f"title {name}", "s", [1.0, 10.0], [2.0, 2.1], [1.0, 10.0]) for name in "abcde"}
    draw(curves, [tmp_path / "curves.svg", tmp_path / "curves.png"])
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.startswith("<?xml")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_step_computes_what_its_weights_ask_for():
    shape = Shape(rows=2, words=16, width=64)
    # 2P a token forward and 2P backward; heads 4 of 16; loss on all 16 tokens: the output layer both ways.
    weights = LAYERS * (4 * 64**2 + 3 * 64 * 256) + VOCABULARY * 64
    assert Step(shape).operations() == pytest.approx(4 * weights * 32, rel=0.1)


def test_what_a_step_keeps_is_in_proportion_to_its_tokens():
    one, four = (Step(Shape(words=words, width=32)).kept_bytes() for words in (64, 256))
    assert four / one == pytest.approx(4, rel=0.1)


def test_an_index_holds_places_numbers_and_which_are_sound(tmp_path, monkeypatch):
    from cotune.data.readers import json_lines

    monkeypatch.setattr(json_lines, "LARGE_BYTES", 0)
    write_rows(tmp_path / "rows.jsonl", 500)
    samples = read_source(tmp_path / "rows.jsonl", reader="chat").samples
    # Three numbers of eight bytes; arrays grow by an eighth at a time.
    assert 24 * 500 <= index_bytes(samples) <= 24 * 500 * 1.2 + 500


def test_curves_are_measured_along_the_axes():
    found = model_curves("modalities", rounds=1, points=2)
    assert found["modalities_time"].sizes == [2.0, 4.0]
    assert abs(found["modalities_memory"].exponent - found["modalities_memory"].expected) < 0.05
    rows = data_curves((100, 400), rounds=1)
    assert set(rows) == {"data_index", "data_shuffle", "data_resume", "data_memory"}
    assert rows["data_memory"].exponent == pytest.approx(1, abs=0.15)


def test_the_result_names_what_grows_worse_than_predicted(tmp_path, monkeypatch):
    bad = Curve("bad", "s", [1.0, 10.0], [1.0, 100.0], [1.0, 10.0])
    monkeypatch.setattr(growth, "model_curves", lambda name, rounds, points: {f"{name}_time": bad})
    good = Curve("good", "s", [1.0, 10.0], [1.0, 10.0], [1.0, 10.0])
    monkeypatch.setattr(growth, "data_curves", lambda rows, rounds: {"data_index": good})
    growth.run(rounds=1, points=2, rows=(1, 10), output=tmp_path / "growth.json")
    found = json.loads((tmp_path / "growth.json").read_text())
    assert "sequence_time" in found["worse_than_predicted"]
    assert "data_index" not in found["worse_than_predicted"]
    assert found["sequence_time_exponent"] == 2.0
    assert np.isclose(found["curves"]["data_index"]["predicted_exponent"], 1.0)
