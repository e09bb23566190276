"""`cotune compare` and `cotune cost` as a user runs them, on run folders made by hand and on a real short run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotune.evaluation.prediction import Prediction
from cotune.evaluation.tasks import write_predictions
from cotune.run_folder import RunFolder
from tests.command_line import run
from tests.tiny import tiny_recipe


def made_run(root: Path, name: str, right: int, *, task: str = "exact-match") -> Path:
    """Return a run folder that answered 20 questions, so many of them rightly."""
    folder = RunFolder(root / name)
    folder.create(tiny_recipe(root, f"evaluation.task={task}", f"output={folder.path}"))
    items = [Prediction(str(i), "what?", "yes" if i < right else "no", "yes", "text") for i in range(20)]
    write_predictions(folder.path / "predictions.jsonl", items)
    return folder.path


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made_run(tmp_path, "first", 4), made_run(tmp_path, "second", 18)]
    assert run("compare", *map(str, folders), "--resamples", "100") == 0
    said = capsys.readouterr().out
    assert "0.200" in said and "+0.700" in said and "*" in said
    out = folders[0] / "compare"
    assert json.loads((out / "compare.json").read_text())["metrics"]["accuracy"][1]["difference"] == pytest.approx(0.7)
    assert "| accuracy (main) | first |" in (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_paper_rows_stand_beside_and_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made_run(tmp_path, name, 5, task="science-qa") for name in ("a", "b")]
    meta = {"subject": "natural science", "grade": "grade3", "has_image": "no", "has_hint": "no", "choices": "2"}
    items = [Prediction(str(i), "?", "The answer is A.", "A", "text", meta | {"answer": "A"}) for i in range(4)]
    for folder in folders:
        write_predictions(folder / "predictions.jsonl", items)
    assert run("compare", *map(str, folders), "--resamples", "100", "--out", str(tmp_path / "out")) == 0
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| paper: LaVIN-7B (20 epochs) | 0.894 |" in page
    assert "arXiv 2305.15023 (as quoted by others, not verified)" in page


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = made_run(tmp_path, "a", 3), made_run(tmp_path, "b", 3, task="captions")
    assert run("compare", str(first), str(other)) == 1
    assert "a: exact-match, b: captions" in capsys.readouterr().err
    assert run("compare", str(first)) == 1
    assert "at least two" in capsys.readouterr().err
    assert run("compare", str(first), str(first)) == 1
    assert "named twice" in capsys.readouterr().err
    (other / "predictions.jsonl").unlink()
    (other / "recipe.yaml").write_text((first / "recipe.yaml").read_text())
    assert run("compare", str(first), str(other)) == 1
    assert "holds no predictions" in capsys.readouterr().err


def test_answers_of_one_task_among_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made_run(tmp_path, "a", 3), made_run(tmp_path, "b", 9)]
    for folder in folders:
        (folder / "predictions.jsonl").rename(folder / "kept.jsonl")
        for task in ("captions", "exact-match"):
            place = folder / "evaluation" / task
            place.mkdir(parents=True)
            (place / "evaluation.json").write_text(json.dumps({"settings": {"task": task}}))
            (place / "predictions.jsonl").write_text((folder / "kept.jsonl").read_text())
    command = ["compare", *map(str, folders), "--resamples", "100"]
    assert run(*command) == 1
    assert "captions, exact-match" in capsys.readouterr().err
    assert run(*command, "--task", "captions") == 0
    assert "word_f1" in capsys.readouterr().out
    assert run(*command, "--task", "mme") == 1


def test_costs_of_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from cotune.training.estimate import estimate
    from cotune.training.run import train

    recipe = tiny_recipe(tmp_path, "training.steps=3", "data.test=[]")
    result = train(recipe, Console(quiet=True))
    assert run("cost", str(recipe.folder), "--json") == 0
    (costs,) = json.loads(capsys.readouterr().out)
    assert costs["trainable"] == result["trainable_parameters"]
    assert costs["storage"] == sum(file.stat().st_size for file in (recipe.folder / "adapter").iterdir())
    steps = [row for row in map(json.loads, (recipe.folder / "trace.jsonl").open()) if row["event"] == "step"]
    tokens, answer = (round(sum(row[key] for row in steps) / 12) for key in ("tokens", "loss_tokens"))
    counted = estimate(recipe, tokens=tokens, answer_tokens=answer).operations
    assert counted is not None and costs["operations"] == 3 * counted.step
    assert run("cost", str(recipe.folder)) == 0
    assert "paper: " in capsys.readouterr().out

    assert run("text-kept", str(recipe.folder)) == 0
    said = capsys.readouterr().out
    assert "base model" in said and "image path" in said
    kept = json.loads((recipe.folder / "text_kept.json").read_text())
    assert kept["loss"]["paths"]["text"] == kept["loss"]["base"]
