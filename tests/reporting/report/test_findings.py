"""Every finding is told when its cause is in the files, and only then; what needs doing stands first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cotune.reporting.report.findings import findings
from cotune.reporting.report.record import RunRecord
from tests.reporting.report.made_up import GIB, balance

FOLDER = Path("runs/made-up")
SETTINGS = {"training": {"steps": 9, "skipped_in_a_row": 3}}
Rows = dict[str, list[dict[str, Any]]]


def measured(step: int, **changes: Any) -> dict[str, Any]:
    """Return a step whose balance was measured."""
    return {"step": step, "loss": 1.0, "balance": balance(step, **changes)}


QUIET: Rows = {"start": [{"step": 0}], "step": [measured(8)], "end": [{"step": 9}]}


def told(rows: Rows, result: dict[str, Any] | None = None, silent: float = 0.0) -> dict[str, str]:
    """Return the text of every finding with its kind."""
    record = RunRecord(FOLDER, rows, result or {}, settings=SETTINGS, silent=silent)
    return {finding.text: finding.kind for finding in findings(record)}


class Cause(NamedTuple):
    """What is in the files, beside a quiet finished run's, and how the finding about it begins."""

    kind: str
    begins: str
    rows: Rows = {}  # noqa: RUF012
    result: dict[str, Any] = {}  # noqa: RUF012


MOVED = {"step": 5, "components": {"vision": True, "connector": True, "llm": True}}
CAUSES = {
    "resumed": Cause("note", "The run was resumed (2x)", result={"resumed": 2}),
    "changed": Cause(
        "warning",
        "Changed under way, after step 3: seed; data",
        result={"changed_under_way": [{"after_step": 3, "changed": ["seed", "data"]}]},
    ),
    "still component": Cause(
        "warning",
        "vision did not change in the first 5 steps, although the recipe trains it",
        {"moved": [MOVED | {"components": {"vision": False, "llm": True}}]},
    ),
    "still tensors": Cause(
        "warning",
        "3 tensors of llm did not learn at first: a, b and 1 more.",
        {"moved": [MOVED | {"still": {"llm": [*"abc"]}}]},
    ),
    "experts alike": Cause(
        "warning",
        "Experts of llm: they are one adapter stored twice",
        {"experts": [{"step": 9, "component": "llm", "verdict": "they are one adapter stored twice"}]},
    ),
    "sentence": Cause("warning", "Lower a rate.", result={"coordination": {"sentences": ["Lower a rate."]}}),
    "flag of before": Cause(
        "note",
        "Flag 'one side leads': up at 50% of the balance measurements, not at the last one.",
        {"step": [measured(6, biased=True), measured(8)]},
    ),
    "said nothing": Cause(
        "note",
        "3 balance measurements said nothing: below the noise.",
        result={"coordination": {"rejected_for": {"below the noise": 3}}},
    ),
    "failed": Cause(
        "note", "Failed and passed over 2 times: probe.", result={"coordination": {"failed": {"probe": 2}}}
    ),
    "above baselines": Cause(
        "good",
        "On the test set accuracy 75.0%; the best baseline at hand: connector only 70.0%.",
        result={"accuracy": 0.75, "baselines": {"connector_only": {"accuracy": 0.7}, "majority": {"accuracy": 0.3}}},
    ),
    "below baselines": Cause(
        "warning",
        "On the test set accuracy 25.0%; the best baseline at hand: majority 30.0%: the run is not above it.",
        result={"accuracy": 0.25, "baselines": {"majority": {"accuracy": 0.3}}},
    ),
    "blind": Cause(
        "warning",
        "On yes/no questions (50.0%) the run is not above what the question alone gives (60.0%)",
        result={"yes_no_accuracy": 0.5, "baselines": {"question_only": {"yes_no_accuracy": 0.6}}},
    ),
    "text kept": Cause("good", "The text path is the base model bit for bit", result={"text_kl": 0.0}),
    "text moved": Cause(
        "note",
        "Text replies moved away from the base model: KL 1.8, 50% of its tokens are the same.",
        result={"text_kl": 1.84, "text_agreement": 0.5},
    ),
    "skipped": Cause(
        "warning", "Skipped: 1 step, because the loss or a gradient was no number", {"skipped": [{"step": 3}]}
    ),
    "left out": Cause(
        "note",
        "longer than max_tokens, left out: 1,200.",
        result={"counts": {"longer than max_tokens, left out": 1200}},
    ),
    "overlap": Cause(
        "warning",
        "In the training data too, with the same pictures and sounds: 5 of 1,000 test questions",
        {"start": [{"step": 0, "overlap": {"questions": 5, "of_questions": 1000, "example": "7"}}]},
    ),
    "memory": Cause(
        "note",
        "Model and steps took more memory than estimated: 3.00 GiB, estimated were 2.00 at most.",
        result={"estimate": {"memory_taken_bytes": 3 * GIB, "memory_high_bytes": 2 * GIB, "on_gpu": True}},
    ),
    "overflows": Cause("note", "Left out while fp16 looked for its loss scale: 4 steps.", result={"overflows": 4}),
}


@pytest.mark.parametrize("name", CAUSES)
def test_what_happened_is_told_once_and_only_when_it_did(name: str) -> None:
    cause = CAUSES[name]
    found = told(QUIET | cause.rows, cause.result)
    assert [kind for text, kind in found.items() if text.startswith(cause.begins)] == [cause.kind], found
    assert not any(text.startswith(cause.begins) for text in told(QUIET))


def test_memory_above_the_estimate_is_no_news_on_a_cpu() -> None:
    compared = CAUSES["memory"].result["estimate"] | {"on_gpu": False}
    assert not any("memory" in text for text in told(QUIET, {"estimate": compared}))


def test_what_needs_doing_stands_first_and_a_quiet_run_is_called_so() -> None:
    every_row = {event: rows for cause in CAUSES.values() for event, rows in cause.rows.items()}
    together: dict[str, Any] = {}
    for cause in CAUSES.values():
        together |= cause.result
    kinds = list(told(QUIET | every_row, together | {"text_kl": 0.0}).values())
    assert kinds == sorted(kinds, key=["warning", "note", "good"].index) and len(set(kinds)) == 3
    assert told(QUIET)["Nothing in the trace calls for action."] == "good"
    assert "Nothing in the trace calls for action." not in told(QUIET | every_row, together)


STOP = "Stopped after step 4 of 9; everything is kept. Go on with: cotune train r.yaml --resume"


@pytest.mark.parametrize(
    ("rows", "silent", "begins"),
    [
        ({}, 1.0, "The run is under way, after step 8 of 9"),
        ({}, 1e4, "Nothing has been written since step 8, and no end is recorded. It goes on with: cotune train"),
        ({"stopped": [{"step": 8, "reason": STOP}]}, 1.0, STOP),
        ({"stopped": [{"step": 8, "reason": "The disk is full"}]}, 1.0, "The disk is full. It goes on with: cotune"),
        (
            {"stopped": [{"step": 8, "error": "DivergedError", "reason": "no number"}]},
            1.0,
            "The run diverged after step",
        ),
        ({"skipped": [{"step": 9}, {"step": 10}, {"step": 11}]}, 1.0, "The run diverged after step 11 of 9: too many"),
    ],
)
def test_a_run_without_an_end_says_why_and_how_it_goes_on(rows: Rows, silent: float, begins: str) -> None:
    unfinished = {event: found for event, found in QUIET.items() if event != "end"}
    assert [text for text in told(unfinished | rows, silent=silent) if text.startswith(begins)]
