"""`cotune evaluate` from end to end: files and pages it leaves, going on where it was stopped, two processes."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import distributed

from cotune.errors import DataError, ModelError, RunFolderError
from cotune.evaluation.tasks import read_predictions
from cotune.model.multimodal_lm import MultimodalLM
from cotune.run_folder import RunFolder
from cotune.training.run import train
from cotune.training.scoring import Wanted, evaluate_run
from tests.command_line import run
from tests.run_ranks import run_ranks
from tests.tiny import tiny_recipe
from tests.training.two_ranks import RANKS, join


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned for a moment; do not write into it."""
    root = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTUNE_CACHE", str(root / "cache"))
        train(tiny_recipe(root, "training.steps=3", "components.connector.rate=0.05"), quiet())
    return root / "run"


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def score(folder: Path, console: Console | None = None, **wanted: Any) -> Any:
    return evaluate_run(RunFolder(folder), console or quiet(), Wanted(**wanted))


def evaluation(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return content


def test_an_evaluation_leaves_everything_and_prints_it(trained: Path, tmp_path: Path) -> None:
    console, out = quiet(), tmp_path / "out"
    scores = score(trained, console, out=out)
    assert sorted(file.name for file in out.iterdir()) == [
        "answers.html", "evaluation.json", "predictions.jsonl", "scores.md",
    ]  # fmt: skip
    content = evaluation(out)
    assert content["scores"] == scores == json.loads(trained.joinpath("evaluation.json").read_text())["scores"]
    assert content["questions"] == 16 and content["settings"]["task"] == "easy-vqa"
    # The tiny test set holds the very pictures and questions of the training set.
    assert content["overlap"]["questions"] == 16 and content["overlap"]["files"] == 4
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "16 of 16 test questions are in the training data" in printed
    assert f"{scores['accuracy']:.4f}" in printed and "answers.html" in printed
    assert f"| accuracy (main) | {scores['accuracy']:.4f} |" in (out / "scores.md").read_text()
    row = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert {"id", "prompt", "prediction", "reference", "correct"} <= row.keys()
    assert row["prompt"] == "<|im_start|>user\n<image>what color is the shape?<|im_end|>\n<|im_start|>assistant\n"


def test_a_stopped_evaluation_goes_on_where_it_was(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(trained, out=tmp_path / "whole")
    generate, calls = MultimodalLM.generate, []

    def counted(self: MultimodalLM, *arguments: Any) -> Any:
        calls.append(1)
        if stop_at and len(calls) > stop_at:
            raise KeyboardInterrupt
        return generate(self, *arguments)

    monkeypatch.setattr(MultimodalLM, "generate", counted)
    stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        score(trained, out=tmp_path / "cut", batch_size=1)
    assert len(read_predictions(tmp_path / "cut" / "predictions.jsonl")) == 5
    assert evaluation(tmp_path / "cut")["scores"] is None
    with (tmp_path / "cut" / "predictions.jsonl").open("a") as file:
        file.write('{"id": "2-')
    stop_at = 0
    calls.clear()
    console = quiet()
    assert score(trained, console, out=tmp_path / "cut", batch_size=1) == whole
    assert len(calls) == 16 - 5
    assert (tmp_path / "cut/predictions.jsonl").read_text() == (tmp_path / "whole/predictions.jsonl").read_text()
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 half-written line(s) dropped" in printed and "5 of 16 questions are answered already" in printed
    calls.clear()
    assert score(trained, out=tmp_path / "cut") == whole and not calls  # nothing is left to answer


def test_a_stopped_command_says_how_to_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MultimodalLM, "generate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("evaluate", str(trained), "--out", str(tmp_path)) == 130
    assert "what was answered is kept, and the same command goes on" in capsys.readouterr().err


def test_papers_stand_beside_the_official_data_alone(trained: Path, tmp_path: Path) -> None:
    score(trained, out=tmp_path / "own", task="coco-captions", limit=3, shown=0)
    assert "paper:" not in (tmp_path / "own" / "scores.md").read_text()
    data = science(tmp_path / "ScienceQA")
    console = quiet()
    score(trained, console, out=tmp_path / "official", task="science-qa", data=data, max_new_tokens=1)
    for text in (console.file.getvalue(), (tmp_path / "official" / "scores.md").read_text()):  # type: ignore[attr-defined]
        assert "paper: LaVIN-7B (20 epochs) [1]" in text and "this run (4 questions)" in text
    assert "paper: LaVIN-7B" in (tmp_path / "official" / "answers.html").read_text()


def test_a_limit_grows_and_another_setting_is_refused(trained: Path, tmp_path: Path) -> None:
    score(trained, out=tmp_path, limit=4)
    score(trained, out=tmp_path, limit=9)
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 9
    with pytest.raises(RunFolderError, match=r"max_new_tokens: 3 before, 2 now"):
        score(trained, out=tmp_path, limit=9, max_new_tokens=2)
    with pytest.raises(RunFolderError, match=r"task: easy-vqa before, exact-match now"):
        score(trained, out=tmp_path, limit=9, task="exact-match")
    score(trained, out=tmp_path, limit=2, max_new_tokens=2, overwrite=True)
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 2


def test_another_run_is_told_from_the_one_that_answered(trained: Path, tmp_path: Path) -> None:
    score(trained, out=tmp_path / "out", limit=2)
    other = shutil.copytree(trained, tmp_path / "other")
    about = json.loads((other / "adapter" / "adapter.json").read_text())
    (other / "adapter" / "adapter.json").write_text(json.dumps(about | {"step": 99}))
    with pytest.raises(RunFolderError, match="adapter: "):
        score(other, out=tmp_path / "out", limit=2)


SCIENCE = {"question": "Which?", "choices": ["one", "two"], "answer": 1, "hint": "", "grade": "grade4", "image": None}


def science(folder: Path) -> Path:
    problems = {str(n): {**SCIENCE, "question": "Which" + "?" * n, "subject": "natural science"} for n in range(4)}
    folder.mkdir()
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    return folder


def test_the_official_folder_of_a_task_is_scored_by_one_command(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = science(tmp_path / "ScienceQA")
    own = shutil.copytree(trained, tmp_path / "run")
    assert (
        run("evaluate", str(own), "--task", "science-qa", "--data", str(data), "--options", "--max-new-tokens", "2")
        == 0
    )
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("guessed", "likeliest option", "G1-6", "no_such_choice"))
    folder = own / "evaluation" / "science-qa"
    scores = evaluation(folder)["scores"]
    options = [item.meta["option"] for item in read_predictions(folder / "predictions.jsonl")]
    assert scores["Avg_option"] == options.count("B") / 4
    assert scores["unanswered"] == 1.0 and scores["accuracy"] == 0.0
    assert "likeliest option" in (folder / "scores.md").read_text()


def test_what_a_task_cannot_score_is_refused_before_anything_is_answered(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MultimodalLM, "generate", lambda *_: pytest.fail("answered"))
    with pytest.raises(DataError, match="meta lacks subject"):
        score(trained, task="science-qa", out=tmp_path)
    with pytest.raises(ModelError, match="did you mean 'textvqa'"):
        score(trained, task="text-vqa", out=tmp_path)
    with pytest.raises(DataError, match="cannot be scored as mme"):
        score(trained, task="mme", data=tmp_path, out=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        score(trained, data=tmp_path / "gone", task="exact-match", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_changed_data_are_refused_and_nothing_is_lost(trained: Path, tmp_path: Path) -> None:
    data = science(tmp_path / "ScienceQA")
    wanted = {"task": "science-qa", "data": data, "out": tmp_path / "out", "max_new_tokens": 1, "shown": 0}
    score(trained, **wanted)
    before = (tmp_path / "out" / "predictions.jsonl").read_text()
    problems = json.loads((data / "problems.json").read_text())
    problems["2"]["question"] = "Which other?"
    (data / "problems.json").write_text(json.dumps(problems))
    with pytest.raises(DataError, match=r"without a sample"):
        score(trained, **wanted)
    assert (tmp_path / "out" / "predictions.jsonl").read_text() == before
    assert not (tmp_path / "out" / "answers.html").exists()


def one_rank(number: int, trained: str, folder: str) -> None:
    """Score as one of two processes."""
    here = Path(folder)
    join(number, here)
    score(Path(trained), out=here / "two", limit=15)
    distributed.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = score(trained, out=tmp_path / "one", limit=15)
    # One of the answers is there already: what is left is dealt out.
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    lines = (tmp_path / "one" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "two" / "predictions.jsonl").write_text(lines[3])
    run_ranks(one_rank, str(trained), str(tmp_path), count=RANKS)
    assert evaluation(tmp_path / "two")["scores"] == one and evaluation(tmp_path / "two")["processes"] == RANKS
    assert (tmp_path / "two" / "predictions.jsonl").read_text() == "".join(lines)
    assert not list((tmp_path / "two").glob("*rank*"))
