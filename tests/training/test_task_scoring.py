"""A recipe's further tasks: checked before training, scored in it and at its end, and training is none the wiser."""

from __future__ import annotations

import json
import os
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import distributed

from cotune.errors import RecipeError
from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.tasks import TASKS, read_predictions
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Recipe
from cotune.reporting.curves import draw_run
from cotune.run_folder import RunFolder
from cotune.trace import read_trace
from cotune.training.random_state import random_state
from cotune.training.run import prepare_training, train
from cotune.training.stopping import TerminatedRunError
from cotune.training.trackers import numbers
from cotune.training.undisturbed import undisturbed
from tests.run_ranks import run_ranks
from tests.tiny import tiny_recipe
from tests.training.test_resume import timeless
from tests.training.test_scoring import science
from tests.training.two_ranks import RANKS, join

RANDOM = ("model.llm.adapters.dropout=0.3", "coordination.rule=feedforward", "coordination.measure_every=2")
TRAINED = "adapter/adapter.safetensors"


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def with_tasks(root: Path, *overrides: str, every: int | None = 2) -> Recipe:
    data = root / "ScienceQA"
    if not data.exists():
        science(data)
    tasks = f"[{{task: easy-vqa, name: seen, data: {root}/train, limit: 6}}, " + (
        f"{{task: science-qa, data: {data}, options: true, max_new_tokens: 2, every: 3}}]"
    )
    steps = "null" if every is None else every
    return tiny_recipe(root, *RANDOM, f"evaluation.tasks={tasks}", f"evaluation.tasks_every={steps}", *overrides)


def scored(run: RunFolder) -> dict[tuple[int, str], Any]:
    return {(row["step"], row["name"]): row["scores"] for row in read_trace(run.trace, "task")}


def test_a_run_with_and_without_scoring_in_between_ends_in_the_same_bits(root: Path) -> None:
    console = quiet()
    plain = tiny_recipe(root, *RANDOM, f"output={root}/plain")
    watched = with_tasks(root, f"output={root}/watched")
    train(plain, quiet())
    result = train(watched, console)
    runs = [RunFolder(recipe.folder) for recipe in (plain, watched)]
    assert (runs[0].path / TRAINED).read_bytes() == (runs[1].path / TRAINED).read_bytes()
    steps = [timeless([row for row in read_trace(run.trace) if row["event"] in ("step", "validation")]) for run in runs]
    assert steps[0] == steps[1]
    # Every second step for the one, every third for the other, and both at the end of six.
    found = scored(runs[1])
    assert list(found) == [(2, "seen"), (3, "science-qa"), (4, "seen"), (6, "seen"), (6, "science-qa")]
    assert result["tasks"].keys() == {"seen", "science-qa"}
    for name, told in result["tasks"].items():
        assert told["scores"] == found[6, name] and told["main_score"] == TASKS[told["task"]].main
        folder = AnswersFolder(Path(told["answers"]))
        assert folder.page.exists() and len(read_predictions(folder.predictions)) == told["questions"]
        assert json.loads(folder.evaluation.read_text())["scores"] == told["scores"]
    assert "Avg_option" in result["tasks"]["science-qa"]["scores"]  # the entry asked for the options
    assert result["tasks"]["seen"]["overlap"]["questions"] > 0 == result["tasks"]["science-qa"]["overlap"]["questions"]
    between = runs[1].path / "evaluation/seen/step-4"
    assert len(read_predictions(between / "predictions.jsonl")) == 6
    assert [file.name for file in draw_run(runs[1])][1] == "tasks.png"
    assert [file.name for file in draw_run(runs[0])] == ["curves.png", "gallery.png"]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(
        text in printed for text in ("Tasks after step 4", "Tasks after the last step, 6", "Main scores by step")
    )


def test_scores_in_between_are_those_of_a_run_that_ends_there(root: Path) -> None:
    """The learning rate is held, so that a shorter run is the beginning of a longer one."""
    same = ("training.schedule=constant", "training.warmup_steps=0")
    train(with_tasks(root, *same), quiet())
    short = with_tasks(root, *same, "training.steps=4", f"output={root}/short", every=None)
    result = train(short, quiet())
    assert scored(RunFolder(root / "run"))[4, "seen"] == result["tasks"]["seen"]["scores"]
    files = [root / "run/evaluation/seen/step-4", root / "short/evaluation/seen"]
    answers = [[item.prediction for item in read_predictions(file / "predictions.jsonl")] for file in files]
    assert answers[0] == answers[1]


def test_a_run_stopped_while_it_is_scored_goes_on_with_what_was_answered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = with_tasks(root, "evaluation.batch_size=1", f"output={root}/whole")
    train(whole, quiet())
    generate, calls = MultimodalLM.generate, []

    def stopped(self: MultimodalLM, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # the fifth of the first six, after step 2
            os.kill(os.getpid(), signal.SIGTERM)
        return generate(self, *arguments)

    cut = with_tasks(root, "evaluation.batch_size=1", f"output={root}/cut")
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(MultimodalLM, "generate", stopped)
        with pytest.raises(TerminatedRunError, match=r"scored after step 2.*--resume"):
            train(cut, quiet())
    assert signal.getsignal(signal.SIGTERM) is before
    answers = root / "cut/evaluation/seen/step-2/predictions.jsonl"
    assert len(read_predictions(answers)) == 4
    assert not list(read_trace(RunFolder(cut.folder).trace, "task"))
    asked = []

    def counted(self: MultimodalLM, *arguments: Any) -> Any:
        asked.append(1)
        return generate(self, *arguments)

    monkeypatch.setattr(MultimodalLM, "generate", counted)
    console = quiet()
    train(cut, console, resume=True)
    assert "4 of 6 questions are answered already" in console.file.getvalue()  # type: ignore[attr-defined]
    runs = [RunFolder(recipe.folder) for recipe in (whole, cut)]
    assert scored(runs[0]) == scored(runs[1])
    for file in (TRAINED, "evaluation/seen/step-2/predictions.jsonl", "evaluation/seen/predictions.jsonl"):
        assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes()
    rows = [(row["event"], row["step"]) for row in read_trace(runs[1].trace) if row["event"] in ("step", "task")]
    assert rows == [
        (row["event"], row["step"]) for row in read_trace(runs[0].trace) if row["event"] in ("step", "task")
    ]


def test_everything_wrong_with_the_tasks_is_said_before_any_weight_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotune.training.run.build_model", lambda *_: pytest.fail("weights were loaded"))
    tasks = (
        f"[easyvqa, {{task: mme, data: {root}/gone}}, {{task: easy-vqa, data: {root}/train, options: true}}, "
        "{task: science-qa, name: other}]"
    )
    with pytest.raises(RecipeError) as caught:
        train(tiny_recipe(root, f"evaluation.tasks={tasks}"), quiet())
    told = "\n".join(caught.value.problems)
    for text in (
        "evaluation.tasks.0 (easyvqa): no task 'easyvqa'; did you mean 'easy-vqa'",
        f"evaluation.tasks.1 (mme): {root}/gone cannot be scored as mme",
        "evaluation.tasks.2 (easy-vqa): easy-vqa has no lettered options",
        "evaluation.tasks.3 (other): predictions that are not of ScienceQA: sample '0-1': meta lacks subject",
        "evaluation.tasks.3 (other): ... and 13 more like these",
    ):
        assert text in told
    assert not (root / "run").exists()


def test_the_model_is_left_as_it_was_whatever_was_done_with_it(root: Path) -> None:
    model = prepare_training(tiny_recipe(root), quiet()).model
    assert model.adapters is not None
    model.train()
    model.encoders.eval()
    modes = [module.training for module in model.modules()]
    routes = [site.route for site in model.adapters.site_adapters]
    state = json.dumps(random_state(), default=lambda tensor: tensor.tolist())
    with pytest.raises(ValueError, match="stopped"), undisturbed(model):
        model.eval()
        model.route(["image"])
        torch.rand(3)
        raise ValueError("stopped")
    assert modes == [module.training for module in model.modules()] and len(set(modes)) == 2
    assert all(one is other for one, other in zip(routes, (s.route for s in model.adapters.site_adapters), strict=True))
    assert json.dumps(random_state(), default=lambda tensor: tensor.tolist()) == state


def test_trackers_are_told_a_task_by_its_name() -> None:
    row = {"event": "task", "step": 4, "seconds": 1.0, "name": "seen", "main": "accuracy", "scores": {"accuracy": 0.5}}
    assert numbers(row) == {"task/seen/scores/accuracy": 0.5}


def one_rank(number: int, root: str, folder: str) -> None:
    """Train as one of two processes."""
    here = Path(folder)
    join(number, here)
    train(with_tasks(Path(root), f"output={here}/two"), quiet())
    distributed.destroy_process_group()


def test_two_processes_score_the_answers_of_one(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws other numbers on two processes: the adapters are compared by their own answers, given by one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with_tasks(root)  # its data are made here, not by both at once
    run_ranks(one_rank, str(root), str(tmp_path), count=RANKS)
    two = RunFolder(tmp_path / "two")
    result = two.read_result()
    assert scored(two).keys() == {(2, "seen"), (3, "science-qa"), (4, "seen"), (6, "seen"), (6, "science-qa")}
    from cotune.training.scoring import Wanted, evaluate_run

    alone = evaluate_run(two, quiet(), Wanted("easy-vqa", root / "train", limit=6, out=tmp_path / "alone"))
    assert alone == result["tasks"]["seen"]["scores"]
    lines = [
        (folder / "predictions.jsonl").read_text() for folder in (tmp_path / "alone", two.path / "evaluation/seen")
    ]
    assert lines[0] == lines[1]
    assert not list(two.path.rglob("*rank*"))
