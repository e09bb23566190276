"""What fails on one of two processes has failed on both: neither waits for the other, and training goes on."""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from cotune.coordination.agreement import on_all_ranks
from cotune.coordination.components import components
from cotune.coordination.coordinator import Coordinator
from cotune.coordination.groups import parameter_groups
from cotune.coordination.meter import BalanceMeter
from cotune.coordination.schedules import make_rule
from cotune.errors import OneRankError
from tests.coordination.toy import forward_of, toy, toy_batch
from tests.run_ranks import run_ranks

RANKS, SECONDS, STEPS = 2, 60, 6
CPU = torch.device("cpu")
# The step, the rank that fails, when it fails (before the forwards or in one), and how.
FAULTS: dict[int, tuple[int, str, type[Exception]]] = {
    1: (1, "forward", ValueError),  # the very first measurement
    3: (0, "forward", torch.OutOfMemoryError),
    4: (0, "finish", MemoryError),
}


def failing_steps(number: int) -> dict[str, Any]:
    """Return what one rank's coordinator says after six steps, three of whose measurements fail on one rank."""
    model, current = toy(dropout=0.0), 0
    parts = components(model)
    optimizer = torch.optim.SGD(parameter_groups(parts, 1e-2))
    meter = BalanceMeter(model, parts, floor=0.0)
    coordinator = Coordinator(
        parts, optimizer, rule=make_rule("feedforward", warmup_measurements=1), meter=meter, measure_every=1
    )

    def fault(where: str) -> None:
        rank, place, kind = FAULTS.get(current, (-1, "", ValueError))
        if (rank, place) == (number, where):
            raise kind("on this rank alone")

    def forward(batch: Any) -> Any:
        fault("forward")
        return forward_of(model)(batch)

    for current in range(1, STEPS + 1):
        batch = toy_batch(8, seed=current)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()).backward()
        coordinator.before_step(1.0)
        optimizer.step()
        step = coordinator._measured_step
        assert step is not None
        finish = step.finish
        step.finish = lambda finish=finish: (fault("finish"), finish())  # type: ignore[method-assign,misc]
        coordinator.after_step(forward, [toy_batch(4, seed=10 * current + number)])
    return {
        "multipliers": coordinator.in_force,
        "failures": dict(coordinator.failures),
        "rejected": dict(meter.rejected),
        "measured": meter.measured,
        "rule": coordinator.rule.state_dict(),
        "weights": sum(float(parameter.detach().sum()) for parameter in model.parameters()),
    }


def rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=number,
        world_size=RANKS,
        timeout=timedelta(seconds=SECONDS),  # a rank that is left alone fails instead of waiting
    )
    Path(folder, f"{number}.json").write_text(json.dumps(failing_steps(number)), encoding="utf-8")
    distributed.destroy_process_group()


def test_a_measurement_that_fails_on_one_rank_is_left_out_by_all(tmp_path: Path) -> None:
    run_ranks(rank, str(tmp_path), count=RANKS)
    first, second = (json.loads((tmp_path / f"{number}.json").read_text(encoding="utf-8")) for number in range(RANKS))
    for name in ("multipliers", "rejected", "measured", "rule", "weights"):
        assert first[name] == second[name], name
    assert first["rejected"] == {"out of memory": 1}
    assert first["measured"] == STEPS - 2  # the others were made, one of them in vain
    assert first["failures"] == {
        "OneRankError: it failed on 1 of 2 ranks (not on this one)": 1,
        "OneRankError: it failed on 1 of 2 ranks (on this one: MemoryError: on this rank alone)": 1,
    }
    assert sum(second["failures"].values()) == 2
    assert first["multipliers"]["llm"] != 1


def two_ranks(other_fails: bool) -> Any:
    """Return a sum over this rank and another one."""

    def reduce(values: Tensor) -> Tensor:
        return values + torch.tensor([float(other_fails), 1.0])

    return reduce


def broken() -> int:
    raise KeyError("x")


def test_the_four_cases_of_two_ranks() -> None:
    assert on_all_ranks(lambda: 7, two_ranks(False), CPU) == 7
    with pytest.raises(OneRankError, match=r"1 of 2 ranks \(not on this one\)"):
        on_all_ranks(lambda: 7, two_ranks(True), CPU)
    with pytest.raises(OneRankError, match=r"1 of 2 ranks \(on this one: KeyError: 'x'\)"):
        on_all_ranks(broken, two_ranks(False), CPU)
    with pytest.raises(KeyError):
        on_all_ranks(broken, two_ranks(True), CPU)
