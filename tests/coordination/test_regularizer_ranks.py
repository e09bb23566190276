"""The regulariser on two processes under DDP: the gradients of the whole batch in one process."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cotune.coordination.regularizer import Regularizer
from cotune.coordination.regularizer_settings import RegularizerSettings
from tests.coordination.two_sides import VOCABULARY, Batch, TwoSides, gradients
from tests.run_ranks import run_ranks

SAMPLES = (2, 3, 1, 2)
STEPS = 3


def train(model: TwoSides, wrapped: nn.Module, batch: Batch, share: float) -> list[Tensor]:
    """Return the last step's gradients; `share` is this process's part of the batch's tokens, times the processes."""
    settings = RegularizerSettings(weight=5.0, reference="repeat", cap=0.4, kept=VOCABULARY)
    regularizer, optimizer = Regularizer(model.components(), settings), torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(STEPS):
        optimizer.zero_grad()
        predictions = batch.predictions(wrapped)
        regularizer.collect(predictions, batch.ids)
        (share * batch.loss(predictions)).backward()
        regularizer.apply()
        optimizer.step()
    return gradients(model)


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model, own = TwoSides(), Batch(*SAMPLES).part(*((0,) if rank == 0 else (1, 2, 3)))
    share = 2 * len(own.targets) / sum(SAMPLES)
    torch.save(train(model, DistributedDataParallel(model), own, share), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_with_unequal_parts_of_a_batch_make_the_gradients_of_the_whole(tmp_path: Path) -> None:
    run_ranks(one_rank, str(tmp_path))
    model = TwoSides()
    expected = train(model, model, Batch(*SAMPLES), 1.0)
    for rank in range(2):
        for gradient, wanted in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)
