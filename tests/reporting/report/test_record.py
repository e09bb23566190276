"""What is read of a run: finished, stopped, diverged, under way, old, damaged."""

import json
import os
import time
from pathlib import Path

import pytest

from cotune.errors import RunFolderError
from cotune.reporting.report.record import read_record
from cotune.trace import Trace
from tests.reporting.report.made_up import write_finished, write_trace


def age(folder: Path, seconds: float) -> None:
    """Make the trace as old as that."""
    then = time.time() - seconds
    os.utime(folder / "trace.jsonl", (then, then))


def append(folder: Path, event: str, step: int, **fields: object) -> None:
    with Trace(folder / "trace.jsonl") as trace:
        trace.write(event, step, **fields)


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    record = read_record(write_finished(tmp_path / "run"))
    assert record.state == "finished" and record.last_step == record.wanted_steps == 20
    assert len(record.steps) == len(record.predictions) == 20 and len(record.measured) == 10
    assert record.setting("model", "llm", "path") == "owner/model" and record.setting("model", "none", "path") is None
    assert not record.problems


def test_the_state_of_a_run_without_an_end(tmp_path: Path) -> None:
    write_trace(tmp_path, 6, end=False)
    assert read_record(tmp_path).state == "under way"
    age(tmp_path, 3600)
    assert read_record(tmp_path).state == "stopped"
    append(tmp_path, "stopped", 6, error="OutOfMemoryError", reason="no room")
    assert read_record(tmp_path).state == "stopped"
    append(tmp_path, "stopped", 6, error="DivergedError", reason="no number")
    assert read_record(tmp_path).state == "diverged"


def test_as_many_skipped_steps_as_the_recipe_allows_mean_that_it_diverged(tmp_path: Path) -> None:
    write_trace(tmp_path, 6, end=False)
    for step in (7, 8):
        append(tmp_path, "skipped", step, loss=float("nan"), gradient_norms={}, samples=["a"])
    assert read_record(tmp_path).state == "under way"
    append(tmp_path, "skipped", 9, loss=float("nan"), gradient_norms={}, samples=["a"])
    assert read_record(tmp_path).state == "diverged"
    assert read_record(tmp_path).last_step == 9


def test_what_cannot_be_read_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    write_finished(tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("a: [")
    (tmp_path / "run" / "predictions.jsonl").write_text('{"id": "1", "quest')
    record = read_record(tmp_path / "run")
    assert len(record.problems) == 2 and "recipe.yaml" in record.problems[0] and "predictions" in record.problems[1]
    assert len(record.steps) == 20
    (tmp_path / "run" / "result.json").write_text("{")
    assert any("result.json" in problem for problem in read_record(tmp_path / "run").problems)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"neither trace\.jsonl nor recipe\.yaml"):
        read_record(tmp_path)
    with pytest.raises(RunFolderError, match="not a folder"):
        read_record(tmp_path / "nothing")


def test_a_cut_last_line_is_no_damage_and_a_broken_one_is(tmp_path: Path) -> None:
    write_trace(tmp_path, 3, end=False)
    with (tmp_path / "trace.jsonl").open("a") as file:
        file.write('{"event": "ste')
    assert len(read_record(tmp_path).steps) == 3
    lines = (tmp_path / "trace.jsonl").read_text().splitlines()
    (tmp_path / "trace.jsonl").write_text("\n".join(["{", *lines]))
    with pytest.raises(RunFolderError, match="damaged"):
        read_record(tmp_path)


def test_a_recipe_alone_says_that_no_step_was_taken(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "x", "training": {"steps": 3}}))
    record = read_record(tmp_path)
    assert record.name == "x" and record.last_step == 0 and "no step was taken" in record.problems[0]
