"""Two processes measure what one measures: whole models on parts of the probe, and models sharded by FSDP2."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from cotune.coordination.components import components
from cotune.coordination.fisher import FisherEstimate
from cotune.coordination.meter import BalanceMeter
from tests.coordination.toy import Batch, Toy, forward_of, toy, toy_batch
from tests.run_ranks import run_ranks

RANKS = 2
# One rank with five samples, the other with one: a mean of ratios would show.
SHARES = ([(0, 3), (3, 5)], [(5, 6), (6, 6)])


def measure(model: Toy, probes: list[Batch]) -> dict[str, Any]:
    """Return what a training step of the same batch on every rank does, measured on this rank's part of the probe."""
    parts = components(model)
    optimizer = torch.optim.SGD([parameter for part in parts.values() for parameter in part.trainable], lr=1e-2)
    meter, estimate = BalanceMeter(model, parts, interaction=True, floor=0.0), FisherEstimate(parts)
    inputs, targets = toy_batch(16, seed=9)
    nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    meter.before_step()
    estimate.before_step()
    optimizer.step()
    free, after = estimate.after_step(), [parameter.detach().clone() for parameter in model.parameters()]
    balance = meter.measure(forward_of(model), probes)
    unchanged = all(bool(torch.equal(_own(a), _own(b))) for a, b in zip(after, model.parameters(), strict=True))
    empty = BalanceMeter(model, parts)
    empty.before_step()
    rejected = empty.measure(forward_of(model), [(inputs[:1], targets[:1])]).reason
    return balance.record() | {"free": free, "unchanged": unchanged, "rejected": rejected}


def _own(value: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor's part on this rank, a whole one as it is."""
    return value.to_local() if hasattr(value, "to_local") else value.detach()


def rank(number: int, folder: str) -> None:
    """Write down what one of two processes measures."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=RANKS)
    inputs, targets = toy_batch()
    probes = [(inputs[start:end], targets[start:end]) for start, end in SHARES[number] if end > start or number == 1]
    found = {"replicated": measure(toy(dropout=0.0), [probe for probe in probes if len(probe[0])])}
    sharded = toy(dropout=0.0)
    for part in (sharded.vision, sharded.llm, sharded):  # the connector is the root's own
        fully_shard(part)
    found["sharded"] = measure(sharded, probes)
    Path(folder, f"{number}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(rank, str(folder), count=RANKS)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(RANKS)]


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_ranks_with_parts_of_the_probe_agree_on_what_one_process_measures(
    measured: list[dict[str, Any]], kind: str
) -> None:
    expected = measure(toy(dropout=0.0), [toy_batch()])
    for found in measured:
        for name in ("divergence", "losses"):
            assert found[kind][name] == pytest.approx(expected[name], rel=1e-6), name
        for name in ("log_kappa", "interaction", "free"):
            assert found[kind][name] == pytest.approx(expected[name], abs=1e-6), name
        assert found[kind]["tokens"] == expected["tokens"]
        assert found[kind]["unchanged"]
        assert found[kind]["rejected"] == "neither side moved"
    assert math.isfinite(expected["log_kappa"])
    assert [found[kind]["log_kappa"] for found in measured[1:]] == [measured[0][kind]["log_kappa"]]
