"""lm-eval's own TruthfulQA tasks, on questions that lie here, give the MC1 and MC2 that cotune gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cotune.evaluation.text_kept import truthful_qa
from cotune.evaluation.truthful_qa import Choices, read_truthful_qa
from cotune.model.loading import load_tuned
from cotune.run_folder import open_run
from tests.evaluation.harnesses.test_lm_eval import offline  # noqa: F401 - a fixture
from tests.evaluation.harnesses.tuned_run import save_tuned_run

lm_eval = pytest.importorskip("lm_eval")
OFFICIAL = "dataset_path: truthfulqa/truthful_qa\ndataset_name: multiple_choice\n"


def save_questions(folder: Path) -> Path:
    """Save questions with answers of many lengths, so that a random model finds some of the true ones likeliest."""
    rows = [
        ("Is it so?", ["Yes.", "It is."], ["No.", "Never, as far as anybody knows."]),
        ("Is it late?", ["It is late in the evening.", "Quite late."], ["Early."]),
        ("Is it red?", ["Red.", "It is red."], ["Blue.", "Green.", "It is of no colour at all."]),
        ("Is it far?", ["Not very far from here.", "Near."], ["Far.", "Too far."]),
        ("How many?", ["1.", "One."], ["Twenty-two thousand and one."]),
        ("Is it you?", ["No.", "It is not."], ["Yes it is, and has been for a long time."]),
    ]
    content = [
        {
            "question": question,
            "mc1_targets": {true[0]: 1} | dict.fromkeys(false, 0),
            "mc2_targets": dict.fromkeys(true, 1) | dict.fromkeys(false, 0),
        }
        for question, true, false in rows
    ]
    (folder / "mc_task.json").write_text(json.dumps(content))
    return folder


def save_task(folder: Path, questions: list[dict[str, Any]]) -> Path:
    """Save lm-eval's tasks with these questions in the place of the hub's."""
    folder.mkdir()
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    source = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    here = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    validation: {folder / 'questions.jsonl'}\n"
    one = (source / "truthfulqa_mc1.yaml").read_text()
    assert OFFICIAL in one
    (folder / "truthfulqa_mc1.yaml").write_text(one.replace(OFFICIAL, here))
    for name in ("truthfulqa_mc2.yaml", "utils.py"):
        (folder / name).write_text((source / name).read_text())
    return folder


def as_official(choices: Choices) -> dict[str, Any]:
    return {"choices": list(choices.all), "labels": [1] * len(choices.true) + [0] * len(choices.false)}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("path", ["text", "image"])
def test_both_scores_are_those_of_lm_eval(tmp_path: Path, path: str) -> None:
    from lm_eval.tasks import TaskManager

    import cotune.evaluation.harnesses.lm_eval_model  # noqa: F401 - registers

    questions = read_truthful_qa(save_questions(tmp_path))
    rows = [
        {"question": item.text, "mc1_targets": as_official(item.one), "mc2_targets": as_official(item.many)}
        for item in questions
    ]
    folder = save_tuned_run(tmp_path)
    tasks = TaskManager(include_path=str(save_task(tmp_path / "task", rows)), include_defaults=False)
    found: Any = lm_eval.simple_evaluate(
        "cotune",
        {"run": str(folder), "path": path, "max_length": 1024},  # the primer is 600 bytes long, a token each
        tasks=["truthfulqa_mc1", "truthfulqa_mc2"],
        task_manager=tasks,
        bootstrap_iters=0,
    )
    model = load_tuned(open_run(folder)[1], folder / "adapter")
    ours = truthful_qa(model.llm, model.template.tokenizer, questions, lambda: model.route([path]))
    assert 0 < ours["MC1"] < 1 and 0 < ours["MC2"] < 1
    for name in ("MC1", "MC2"):
        assert ours[name] == pytest.approx(found["results"][f"truthfulqa_{name.lower()}"]["acc,none"], abs=1e-3)
