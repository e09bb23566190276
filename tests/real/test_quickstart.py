"""A short run on the real weights and data: not whether it is good, but whether every part does its work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotune.quickstart import resolve
from cotune.trace import read_trace

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.environ.get("COTUNE_REAL") != "1", reason="fetches real packages; set COTUNE_REAL=1"),
]


def cotune(*arguments: str) -> str:
    """Run a command as a user would and return what it printed."""
    command = [sys.executable, "-m", "cotune", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "run"
    changes = ["training.steps=60", "evaluation.limit=200", "training.evaluate_every=1000", f"output={folder}"]
    cotune("train", "quickstart", *changes)
    return folder


def test_the_loss_falls_and_every_component_moves(run: Path) -> None:
    losses = [row["loss"] for row in read_trace(run / "trace.jsonl", "step")]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    moved = next(read_trace(run / "trace.jsonl", "moved"))["components"]
    assert moved == {"vision": True, "connector": True, "llm": True}


def test_the_text_path_is_the_base_model(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert abs(result["text_kl"]) <= 1e-6
    assert "Paris" in result["text_reply"]


def test_the_run_can_be_talked_to(run: Path) -> None:
    picture = f"{resolve('quickstart:easy-vqa/test')}/images/0.png"
    answer = cotune("chat", str(run), "--image", picture, "--prompt", "what shape is present?").strip()
    # After sixty steps it may be wrong, but it answers in the words of the task.
    assert answer.split("\n")[-1] in {"circle", "rectangle", "triangle"}
    assert "Paris" in cotune("chat", str(run), "--prompt", "What is the capital of France?", "--max-new-tokens", "12")
