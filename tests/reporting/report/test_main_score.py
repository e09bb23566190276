"""Runs are judged by their task's main score, in its own unit, not by an accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotune.reporting.report.findings import findings
from cotune.reporting.report.learning import learning_section
from cotune.reporting.report.record import read_record
from cotune.reporting.report.summary import tiles
from tests.reporting.report.made_up import write_trace

CAPTIONS = {
    "name": "told",
    "task": "coco-captions",
    "main_score": "CIDEr",
    "accuracy": 0.123,
    "CIDEr": 0.8642,
    "Bleu_4": 0.25,
    "ROUGE_L": 0.5,
    "baselines": {"majority": {"CIDEr": 0.9, "Bleu_4": 0.1, "accuracy": 0.0}, "lora": None},
}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    write_trace(tmp_path, name="told")
    (tmp_path / "result.json").write_text(json.dumps(CAPTIONS))
    for name, content in {
        "textvqa": {"settings": {"task": "textvqa"}, "questions": 7, "scores": {"accuracy": 0.25, "other": 1.0}},
        "mme": {"settings": {"task": "mme"}, "questions": 9, "scores": {"acc": 1.0, "perception": 1234.56}},
    }.items():
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "evaluation.json").write_text(json.dumps(content))
    return tmp_path


def test_the_main_score_stands_first_in_its_own_unit(captions: Path) -> None:
    record = read_record(captions)
    assert (tiles(record)[0].label, tiles(record)[0].value) == ("CIDEr, test", "0.8642")
    told = [finding.text for finding in findings(record)]
    assert "On the test set CIDEr 0.8642; the best baseline at hand: majority 0.9000: the run is not above it." in told
    assert not any("ccuracy" in line for line in told)


def test_benchmarks_answered_beside_the_test_set_are_listed(captions: Path) -> None:
    (_, _, *tables) = learning_section(read_record(captions)).blocks
    text = "".join(table.markdown() for table in tables if hasattr(table, "markdown"))
    assert "| this run | 0.8642 |" in text
    assert "| textvqa | accuracy, % | 25.0 | 7 |" in text
    assert "| mme | perception | 1234.6 | 9 |" in text


def test_a_benchmark_that_cannot_be_read_is_named(captions: Path) -> None:
    (captions / "evaluation" / "mme" / "evaluation.json").write_text("{")
    record = read_record(captions)
    assert any("evaluation.json" in problem for problem in record.problems)
    assert "textvqa" in record.benchmarks
