"""What the benchmarks share."""

import json
import sys
import tempfile
from pathlib import Path

import measuring
import pytest
from hypothesis import given
from hypothesis import strategies as st


def test_ways_take_turns_and_each_round_begins_with_another_one():
    seen = []
    ways = {name: lambda name=name: seen.append(name) or float(len(seen)) for name in "abc"}
    found = measuring.take_turns(ways, 3)
    assert "".join(seen) == "abcbcacab"
    assert found == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=7), st.floats(0.2, 5.0))
def test_the_ratio_is_that_of_each_round_however_the_machine_slows_down(slowness, factor):
    assert measuring.ratio([factor * value for value in slowness], slowness) == pytest.approx(factor)


def test_a_result_begins_with_name_date_and_ratios_and_says_where_it_was_measured(tmp_path: Path):
    found = measuring.result("name", {"ratio": 1.5, "other": 2}, rounds=[1, 2])
    target = measuring.write(found, tmp_path / "folder" / "name.json")
    written = json.loads(target.read_text())
    assert list(written)[:4] == ["benchmark", "date", "ratio", "other"]
    assert written == found
    assert written["machine"]["cores"] >= 1
    assert written["versions"]["torch"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["--quick"], "temporary/*/look.json"),
        (["--quick", "--output", "mine.json"], "mine.json"),
        ([], "results/name.json"),
    ],
)
def test_a_look_replaces_no_kept_result(
    said: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(sys, "argv", ["benchmark", *said])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    target = measuring.write({"benchmark": "name"}, measuring.read(measuring.command(None)).output)
    assert list(tmp_path.glob(expected)) == [target.resolve()] == list(tmp_path.rglob("*.json"))


def test_work_is_timed():
    assert 0 <= measuring.seconds(lambda: None) < 1


def test_every_result_that_is_kept_names_its_benchmark_and_date():
    for file in measuring.RESULTS.glob("*.json"):
        kept = json.loads(file.read_text())
        assert {"benchmark", "date", "machine"} <= kept.keys(), file
