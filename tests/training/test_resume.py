"""A run that is killed, stopped or gone on with under other conditions: the same bits, or a refusal that says why."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from cotune.errors import CheckpointError, RunFolderError
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.trace import read_trace
from cotune.training.loop import TrainingLoop
from cotune.training.random_state import random_state, restore_random_state, seed_everything
from cotune.training.run import train
from tests.command_line import run as command
from tests.tiny import joined_recipe, tiny_recipe

# What the machine says, not the run.
_TIMES = {"seconds", "step_seconds", "probe_seconds", "wall_seconds", "peak_memory_bytes"}
REPOSITORY = Path(__file__).parents[2]


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def timeless(value: Any) -> Any:
    """Return nested values without what a clock has measured."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in _TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def ends_alike(one: Recipe, other: Recipe) -> None:
    """Check that two runs ended with the same weights, log and answers, times aside."""
    runs = [RunFolder(recipe.folder) for recipe in (one, other)]
    for file in ("adapter/adapter.safetensors", "predictions.jsonl"):
        assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes()
    logs = [timeless([row for row in read_trace(run.trace) if row["event"] != "start"]) for run in runs]
    assert logs[0] == logs[1]


def stopped_after(steps: int, stop: Callable[[], object]) -> Any:
    """Return a step that does something when that many are done."""
    one_step = TrainingLoop._one_step

    def step(self: TrainingLoop) -> dict[str, Any]:
        if self.step == steps:
            stop()
        return one_step(self)

    return step


def interrupt(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Train that many steps, then die."""

    def die() -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_one_step", stopped_after(steps, die))
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe, quiet())


EVENTFUL = (
    "model.llm.adapters.dropout=0.3",
    "coordination.rule=feedforward",
    "coordination.measure_every=3",
    "training.steps=34",
    "training.evaluate_every=5",
    "training.snapshot_every=1",
    "evaluation.validation_limit=4",
    "evaluation.limit=4",
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let one thread compute: a process forked from one whose threads have computed waits for threads it has not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the tries are forked")
def test_a_run_killed_ten_times_at_random_moments_ends_with_the_same_bits(root: Path, one_thread: None) -> None:
    whole = tiny_recipe(root, *EVENTFUL, f"output={root}/whole")
    train(whole, quiet())
    killed = tiny_recipe(root, *EVENTFUL, f"output={root}/killed")
    file = root / "killed.yaml"
    file.write_text(killed.to_yaml())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-m", "tests.training.killing", str(file), "10", "7"]
    done = subprocess.run(arguments, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + (root / "killed.log").read_text()
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == 0, (root / "killed.log").read_text()
    assert told["half_written"] >= 1
    ends_alike(whole, killed)
    assert RunFolder(killed.folder).read_result()["resumed"] == 10


def test_sigterm_keeps_a_snapshot_exits_with_143_and_the_run_ends_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("training.steps=7", "training.snapshot_every=50", "model.llm.adapters.dropout=0.3")
    whole = tiny_recipe(root, *more, f"output={root}/whole")
    train(whole, quiet())
    cut = tiny_recipe(root, *more)
    file = root / "cut.yaml"
    file.write_text(cut.to_yaml())
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_one_step", stopped_after(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert command("train", str(file)) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert "Stopped after step 3 of 7" in capsys.readouterr().err
    assert [path.name for path in RunFolder(cut.folder).snapshots.iterdir()] == ["step-3"]
    train(cut, quiet(), resume=True)
    ends_alike(whole, cut)


def test_a_run_killed_while_it_was_scored_records_nothing_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(root, "evaluation.held_out_loss=true")
    with monkeypatch.context() as patch:
        patch.setattr("cotune.training.result.versions", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, quiet())
    events = [row["event"] for row in read_trace(RunFolder(recipe.folder).trace)]
    assert events.count("held_out") == 2
    train(recipe, quiet(), resume=True)
    events = [row["event"] for row in read_trace(RunFolder(recipe.folder).trace)]
    assert {name: events.count(name) for name in ("start", "moved", "held_out", "test", "end")} == {
        "start": 1, "moved": 1, "held_out": 2, "test": 1, "end": 1,
    }  # fmt: skip


def spoil(snapshot: Path, how: str) -> None:
    if how == "flipped":
        file = snapshot / "optimizer.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    elif how == "missing":
        (snapshot / "adapter.safetensors").unlink()
    else:
        (snapshot / "SHA256SUMS").write_text("")


@pytest.mark.parametrize("how", ["flipped", "missing", "no sums"])
def test_a_damaged_snapshot_is_named_and_the_one_before_it_used(
    root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    more = ("training.snapshot_every=2",)
    whole = tiny_recipe(root, *more, f"output={root}/whole")
    train(whole, quiet())
    recipe = tiny_recipe(root, *more)
    interrupt(recipe, monkeypatch, 5)
    run = RunFolder(recipe.folder)
    spoil(run.snapshots / "step-4", how)
    screen = StringIO()
    train(recipe, Console(file=screen, width=400), resume=True)
    assert "step-4 is damaged and not used" in screen.getvalue()
    assert "Going on after step 2" in screen.getvalue()
    ends_alike(whole, recipe)


def test_when_every_snapshot_is_damaged_that_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(root, "training.snapshot_every=2")
    interrupt(recipe, monkeypatch, 5)
    for snapshot in RunFolder(recipe.folder).snapshots.glob("step-*"):
        spoil(snapshot, "flipped")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="every snapshot is damaged; begin the run again with --overwrite"):
            train(recipe, quiet(), resume=True)


def questions(root: Path) -> Path:
    return root / "train" / "questions.json"


def test_changed_data_are_refused_with_what_changed_unless_allowed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(root)
    interrupt(recipe, monkeypatch, 4)
    asked = json.loads(questions(root).read_text())
    asked[0][1] = "yellow"
    questions(root).write_text(json.dumps(asked[:-1]))
    with pytest.raises(RunFolderError, match=r"was begun on other data") as caught:
        train(recipe, quiet(), resume=True)
    assert "first difference is among samples 1 to" in str(caught.value) and "--allow-changed" in str(caught.value)
    result = train(recipe, quiet(), resume=True, allow_changed=True)
    [change] = result["changed_under_way"]
    assert change["after_step"] == 3 and any(line.startswith("data.train.0:") for line in change["changed"])


def test_a_picture_of_another_size_is_other_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(root)
    interrupt(recipe, monkeypatch, 4)
    picture = root / "train" / "images" / "3.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(RunFolderError, match="data"):
        train(recipe, quiet(), resume=True)


def test_a_changed_recipe_goes_on_when_allowed_and_is_the_runs_own_then(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tiny_recipe(root), monkeypatch, 4)
    smaller = tiny_recipe(root, "training.micro_batch_size=2", "training.gradient_checkpointing=true")
    with pytest.raises(RunFolderError, match=r"training\.micro_batch_size.*--allow-changed"):
        train(smaller, quiet(), resume=True)
    result = train(smaller, quiet(), resume=True, allow_changed=True)
    assert result["steps"] == 6
    assert result["changed_under_way"][0]["changed"] == [
        "training.gradient_checkpointing",
        "training.micro_batch_size",
    ]
    assert not RunFolder(smaller.folder).changed_keys(smaller)


@pytest.mark.parametrize("key", ["seed=1", "model.llm.adapters.rank=8", "coordination.rule=feedforward"])
def test_what_a_snapshot_only_means_something_under_never_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    interrupt(tiny_recipe(root), monkeypatch, 4)
    with pytest.raises(RunFolderError, match=f"{key.partition('=')[0]} cannot change"):
        train(tiny_recipe(root, key), quiet(), resume=True, allow_changed=True)


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(1)),
    ]


def test_every_random_generator_goes_on_where_it_was() -> None:
    seed_everything(3)
    first = draws()
    # Through JSON, as a snapshot keeps it; tensors lie beside.
    state = random_state()
    plain = json.loads(json.dumps({key: value for key, value in state.items() if key not in ("torch", "cuda")}))
    expected = draws()
    seed_everything(4)
    draws()
    restore_random_state(state | plain)
    assert draws() == expected
    seed_everything(3)
    assert draws() == first


def test_data_that_are_not_held_in_memory_are_checked_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.data.readers.json_lines.LARGE_BYTES", 10)
    file = root / "conversations" / "chat.jsonl"
    recipe = joined_recipe(root, "data.validation_share=0.3", "evaluation.text_retention=false")
    interrupt(recipe, monkeypatch, 4)
    begun = json.loads(RunFolder(recipe.folder).begun_with.read_text())["data"]["data.train.0"]
    assert begun["bytes"] == file.stat().st_size
    file.write_text(file.read_text().replace("this is 3", "this is 9"))
    with pytest.raises(RunFolderError, match=r"data\.train\.0: .* or other contents"):
        train(recipe, quiet(), resume=True)


def test_workers_that_load_pictures_change_no_bit_also_of_a_run_that_was_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("components.vision.tune=full", "training.steps=9", "training.snapshot_every=2", "coordination.probe=2")
    alone = tiny_recipe(root, *more, "data.workers=0", f"output={root}/alone")
    train(alone, quiet())
    with_workers = tiny_recipe(root, *more, "data.workers=3", f"output={root}/workers")
    interrupt(with_workers, monkeypatch, 5)
    train(with_workers, quiet(), resume=True)
    ends_alike(alone, with_workers)
