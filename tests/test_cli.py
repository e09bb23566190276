"""The commands as a user types them."""

import errno
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cotune import cli
from cotune.recipe.reading import load_recipe
from tests.command_line import run
from tests.tiny import tiny_recipe

COMMANDS = (
    ["quickstart"],
    ["train"],
    ["evaluate"],
    ["tasks"],
    ["chat"],
    ["estimate"],
    ["import-lavin"],
    ["study"],
    ["report"],
    ["card"],
    ["recipes", "ls"],
    ["recipes", "cp"],
)


@pytest.fixture
def recipe_file(root: Path) -> Path:
    file = root / "tiny.yaml"
    file.write_text(tiny_recipe(root).to_yaml())
    return file


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"Example: cotune {' '.join(command)}" in result.output


def test_the_command_line_starts_without_torch() -> None:
    program = "import sys, cotune.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_run_is_trained_scored_and_talked_to(
    recipe_file: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", str(recipe_file), "training.steps=4") == 0
    printed = capsys.readouterr().out
    assert "Run folder:" in printed
    assert "question only" in printed
    line = printed.partition("Try it:")[2].strip()
    assert run(*shlex.split(line)[1:], "--max-new-tokens", "2") == 0  # the line works as it is printed
    folder = root / "run"
    for name in ("recipe.yaml", "trace.jsonl", "result.json", "curves.png", "gallery.png", "adapter/adapter.json"):
        assert (folder / name).is_file(), name
    assert load_recipe(folder / "recipe.yaml").training.steps == 4
    assert run("evaluate", str(folder), "--limit", "3") == 0
    assert "yes_no_accuracy" in capsys.readouterr().out
    picture = str(root / "test" / "images" / "0.png")
    assert run("chat", str(folder), "--image", picture, "--prompt", "what color?", "--max-new-tokens", "3") == 0
    assert capsys.readouterr().out.strip()


def test_a_study_says_its_size_runs_and_prints_its_table(
    recipe_file: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", str(recipe_file), "evaluation.limit=2", "--rules", "constant", "--rates", "1:1"]
    command += ["--seeds", "0", "--steps", "2", "--output", str(root / "study")]
    assert run(*command, "--dry-run") == 0
    assert "1 runs of 2 steps, 1 of them left to do" in capsys.readouterr().out
    assert not (root / "study").exists()
    assert run(*command) == 0
    printed = capsys.readouterr().out
    assert "constant" in printed and "study.md" in printed
    assert run("study", str(recipe_file), "--rules", "konstant") == 1
    assert "did you mean 'constant'" in capsys.readouterr().err


def test_an_expected_error_has_no_traceback_and_a_status(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", str(recipe_file), "training.setps=4", "zzz=1") == 1
    printed = capsys.readouterr().err
    assert "did you mean 'steps'" in printed
    assert "zzz" in printed
    assert "Traceback" not in printed


def test_an_existing_run_is_replaced_only_when_asked_to(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", str(recipe_file), "training.steps=1") == 0
    assert run("train", str(recipe_file), "training.steps=2") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run("train", str(recipe_file), "training.steps=2", "--overwrite") == 0


def test_a_misspelt_recipe_or_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "quikstart") == 1
    assert "did you mean 'quickstart'" in capsys.readouterr().err
    assert run("evaluate", str(tmp_path)) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert run("chat", str(tmp_path / "none")) == 1


def test_recipes_are_listed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "ls") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("quickstart", "captions", "own-model"))
    target = tmp_path / "mine.yaml"
    assert run("recipes", "cp", "own-model", str(target)) == 0
    assert load_recipe(target).name == "own-model"
    assert run("recipes", "cp", "own-model", str(target)) == 1
    assert run("recipes", "cp", "own", str(tmp_path / "other.yaml")) == 1


def test_a_full_disk_is_said_without_a_traceback(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cotune.trace.Trace.write", full)
    assert run("train", str(recipe_file)) == 1
    printed = capsys.readouterr().err
    assert "disk is full" in printed
    assert "Traceback" not in printed


def test_an_interrupt_before_training_is_no_traceback(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cotune.training.run.build_model", interrupt)
    assert run("train", str(recipe_file)) == 130
    assert "Traceback" not in capsys.readouterr().err
