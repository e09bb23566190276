"""Self-tuning on two processes: replicas find equal numbers, shards find those of the whole."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from cotune.coordination.schedules import make_rule
from tests.run_ranks import run_ranks

STEPS, RANKS = 40, 2
CURVATURE = torch.tensor([1.0, 4.0, 0.5, 20.0], dtype=torch.float64)


def train(named: dict[str, dict[str, nn.Parameter]], backward: object, *, base: float, **begin: object) -> list[float]:
    """Return the multipliers of every step of a plain loop, one component after the other."""
    rule = make_rule("self-tuning")
    rule.begin(named, **begin)
    optimizers = {name: SGD(list(part.values()), lr=0.0) for name, part in named.items()}
    seen: list[float] = []
    for step in range(STEPS):
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        backward(step)
        for name, multiplier in rule.before_step().items():
            optimizers[name].param_groups[0]["lr"] = base * multiplier
            optimizers[name].step()
            seen.append(multiplier)
        rule.after_step()
    return seen


def parts_of(model: nn.Sequential) -> dict[str, dict[str, nn.Parameter]]:
    return {"vision": dict(model[0].named_parameters()), "llm": dict(model[2].named_parameters())}


def network() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
        torch.randn(STEPS, 8, 4),
        torch.randn(STEPS, 8, 3),
    )


def own_batches(rank: int, model: nn.Module, parts: dict[str, dict[str, nn.Parameter]], **begin: object) -> list[float]:
    _, inputs, targets = network()

    def backward(step: int) -> None:
        own = slice(4 * rank, 4 * rank + 4)
        nn.functional.mse_loss(model(inputs[step, own]), targets[step, own]).backward()

    return train(parts, backward, base=5.0, **begin)


def replicas(rank: int) -> list[float]:
    model, *_ = network()
    return own_batches(rank, DistributedDataParallel(model), parts_of(model))


def fully_sharded(rank: int) -> list[float]:
    model, *_ = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    return own_batches(rank, model, parts_of(model), all_reduce=distributed.all_reduce)


def whole_batches() -> list[float]:
    model, inputs, targets = network()

    def backward(step: int) -> None:
        nn.functional.mse_loss(model(inputs[step]), targets[step]).backward()

    return train(parts_of(model), backward, base=5.0)


def shard_backward(vision: nn.Parameter, llm: nn.Parameter, cut: slice, step: int) -> None:
    source = torch.Generator().manual_seed(step)
    noise = torch.randn(2, 4, generator=source, dtype=torch.float64)[:, cut]
    loss = 0.5 * (CURVATURE[cut] * vision**2).sum() + noise[0] @ vision
    if llm.numel():  # the last process holds nothing of it, and has no gradient either
        loss = loss + (llm**2).sum() + noise[1, :2] @ llm
    loss.backward()


def shards(rank: int, ranks: int = RANKS) -> list[float]:
    cut = slice(4 * rank // ranks, 4 * (rank + 1) // ranks)
    vision = nn.Parameter(torch.arange(1.0, 5.0, dtype=torch.float64)[cut].clone())
    llm = nn.Parameter(torch.tensor([2.0, -1.0] if rank == 0 else [], dtype=torch.float64))
    sum_over_ranks = {"all_reduce": distributed.all_reduce} if ranks > 1 else {}
    named = {"vision": {"w": vision}, "llm": {"w": llm}}
    return train(named, partial(shard_backward, vision, llm, cut), base=1.0, **sum_over_ranks)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found = {"replicas": replicas(rank), "fully sharded": fully_sharded(rank), "shards": shards(rank)}
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


def test_two_processes_find_the_same_multipliers_as_one(tmp_path: Path) -> None:  # T9
    run_ranks(worker, str(tmp_path), count=RANKS)
    found = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(RANKS)]
    assert found[0] == found[1]  # to the last bit, or the ranks would drift apart
    whole = whole_batches()
    assert found[0]["replicas"] == pytest.approx(whole, rel=1e-4)
    assert found[0]["fully sharded"] == pytest.approx(whole, rel=1e-4)
    assert found[0]["shards"] == pytest.approx(shards(0, ranks=1), rel=1e-9)
    assert len(set(found[0]["shards"])) > STEPS
