"""What a run records for its report: routing weights, why it stopped, memory and its estimate."""

from pathlib import Path
from typing import Any

import pytest

from cotune.errors import RunFolderError
from cotune.model.loading import load_tuned
from cotune.progress import make_console
from cotune.reporting.report.record import read_record
from cotune.run_folder import RunFolder
from cotune.trace import Trace, read_trace
from cotune.training.loop import TrainingLoop
from cotune.training.run import train
from cotune.training.stop_record import recorded_stop
from tests.tiny import tiny_recipe

QUIET = make_console(quiet=True)


def test_the_routing_weights_are_those_of_the_tuned_model(root: Path) -> None:
    recipe = tiny_recipe(root, "model.llm.routing.mode=soft", "model.llm.routing.temperature=1.0")
    train(recipe, QUIET)
    run = RunFolder(recipe.folder)
    rows = list(read_trace(run.trace, "routing"))
    assert [row["step"] for row in rows] == [4, 6]  # at the validation, and at the end
    model = load_tuned(recipe, run.adapter)
    assert model.adapters is not None
    assert rows[-1]["modalities"] == list(model.adapters.modalities.names)
    for recorded, table in zip(rows[-1]["weights"].values(), model.adapters.tables(), strict=True):
        for row, wanted in zip(recorded, table.tolist(), strict=True):
            assert row == pytest.approx(wanted, abs=1e-4)
    start = next(read_trace(run.trace, "start"))
    assert 0 < start["memory"]["low"] <= start["memory"]["expected"] <= start["memory"]["high"]
    assert "float32" in start["precision"]
    peaks = [row["peak_memory_bytes"] for row in read_trace(run.trace, "step")]
    assert peaks == sorted(peaks) and peaks[0] > 0


def test_a_language_model_without_adapters_has_no_routing(root: Path) -> None:
    recipe = tiny_recipe(root, "components.llm.tune=frozen", "training.steps=2", "coordination.measure_every=0")
    train(recipe, QUIET)
    assert not list(read_trace(RunFolder(recipe.folder).trace, "routing"))


def test_a_run_that_fails_says_why(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TrainingLoop) -> dict[str, Any]:
        raise RuntimeError("the reason\nand more")

    monkeypatch.setattr(TrainingLoop, "_one_step", fail)
    recipe = tiny_recipe(root)
    with pytest.raises(RuntimeError):
        train(recipe, QUIET)
    record = read_record(recipe.folder)
    assert record.state == "stopped"
    stopped = record.newest("stopped")
    assert (stopped["error"], stopped["reason"], stopped["step"]) == ("RuntimeError", "the reason", 0)


def test_a_trace_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    class Loop:
        step = 3

    trace = Trace(tmp_path / "trace.jsonl")
    trace.close()
    with pytest.raises(RunFolderError, match="first"), recorded_stop(trace, Loop()):  # type: ignore[arg-type]
        raise RunFolderError("first")
