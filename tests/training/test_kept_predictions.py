"""Measuring a step begins from what training predicted: the same as the probe's own forward, for one forward less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cotune.trace import read_trace
from cotune.training.loop import TrainingLoop
from cotune.training.processes import Processes
from tests.tiny import joined_recipe, tiny_recipe
from tests.training.test_loop import make_loop, run

EVERY_STEP = ("coordination.measure_every=1", "training.batch_size=8", "coordination.probe=3")
CUTS = {
    "one pass": (),
    "passes of two rows": ("training.micro_batch_size=2",),
    "packed": ("data.max_tokens=256", "training.pack_tokens=256"),
    "one packed row a pass": ("data.max_tokens=256", "training.pack_tokens=256", "training.micro_batch_size=1"),
    "an output layer that learns": ("components.llm={tune: full, rate: 1.0e-4}",),
}


def joined_loop(root: Path, *overrides: str) -> TrainingLoop:
    """Return a loop over text, pictures and sounds in training mode."""
    loop = make_loop(joined_recipe(root, *EVERY_STEP, "model.llm.routing.text=trained", *overrides))
    loop.model.train()
    return loop


@pytest.mark.parametrize("cut", list(CUTS))
def test_training_gives_the_predictions_that_the_probe_would_make(root: Path, cut: str) -> None:
    loop = joined_loop(root, *CUTS[cut])
    for _ in range(3):
        encoded = loop.stream.take(3)
        loop.passes.backward(encoded)
        found = loop.passes.bases(encoded)
        (probe,) = loop.passes.probes(encoded)
        with torch.no_grad():
            logits, targets, rows = loop.passes.predict(probe)
        assert found is not None
        (base,) = found
        assert base.targets is not None and base.rows is not None
        assert base.targets.tolist() == targets.tolist() and base.rows.tolist() == rows.tolist()
        assert set(rows.tolist()) == {0, 1, 2}
        torch.testing.assert_close(base.logits, logits, rtol=1e-4, atol=1e-5)
        assert loop.passes.bases(encoded) is None  # they are of one step


def test_they_stand_for_one_forward_from_the_second_measurement_on(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, *EVERY_STEP, "training.steps=4"))
    run(loop)
    rows = [row["balance"] for row in read_trace(loop.run_folder.trace, "step")]
    assert [row["forwards"] for row in rows] == [3, 2, 2, 2]  # the first time they are compared


def test_what_is_measured_does_not_depend_on_who_made_them(root: Path) -> None:
    def balances(name: str, *, own: bool) -> list[float]:
        loop = make_loop(joined_recipe(root, *EVERY_STEP, "training.steps=4", f"output={root}/{name}"))
        if own:
            loop.passes.bases = lambda _: None  # type: ignore[method-assign]
        run(loop)
        return [row["balance"]["log_kappa"] for row in read_trace(loop.run_folder.trace, "step")]

    assert balances("kept", own=False) == pytest.approx(balances("own", own=True), abs=1e-3)


def test_none_are_kept_on_steps_that_are_not_measured_under_dropout_or_among_several_processes(root: Path) -> None:
    rare, dropping, one_of_two = (
        joined_loop(root, *more)
        for more in (("coordination.measure_every=2",), ("model.llm.adapters.dropout=0.1",), ())
    )
    one_of_two.passes.processes = Processes(rank=0, size=2)
    for loop in (rare, dropping, one_of_two):
        encoded = loop.stream.take(1)
        loop.passes.backward(encoded)
        assert loop.passes.bases(encoded) is None
