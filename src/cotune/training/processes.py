"""The processes of a run: one alone, or as many as torchrun or Ray has started, each with a device of its own.

Accelerate's `PartialState` finds the device and joins the processes. Its `Accelerator` is not used: it is one for the
whole process, precision included, while a study trains by one recipe after the other; and what it would wrap the model
for, adding up gradients, takes one sum a step here (`gradients`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from cotune.errors import OtherRankError

_T = TypeVar("_T")
_CPU = torch.device("cpu")
# A process may wait this long for another: the last to have encoded its share of the pictures, or the first, scoring.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run: its number, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = _CPU

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return a tensor added up over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, mine: bool) -> bool:
        """Return whether something holds for any process."""
        return bool(self.sum(torch.tensor(float(mine), device=self.device)))

    def from_main(self, values: Tensor) -> Tensor:
        """Return the first process's values of a tensor, in place."""
        if self.size > 1:
            distributed.broadcast(values, 0)
        return values

    def gather(self, mine: Any) -> list[Any]:
        """Return what every process gives, in the order of their numbers."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, mine)
        return found

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Return this process's part of some items: every size-th one."""
        return list(items[self.rank :: self.size])

    def joined(self, mine: Sequence[_T]) -> list[_T]:
        """Return all items in their order, from what every process made of its `share`."""
        parts = self.gather(list(mine))
        result: list[_T] = [parts[0][0]] * sum(map(len, parts)) if parts[0] else []
        for rank, part in enumerate(parts):
            result[rank :: self.size] = part
        return result

    def on_main(self, work: Callable[[], object]) -> None:
        """Do something in the first process only; when it fails, all fail.

        Raises:
            OtherRankError: in the other processes, with the first one's reason.
        """
        failure: Exception | None = None
        if self.main:
            try:
                work()
            except Exception as error:
                failure = error
        if self.size > 1:
            told = [None if failure is None else str(failure)]
            distributed.broadcast_object_list(told, 0)
            if not self.main and told[0] is not None:
                raise OtherRankError(told[0])
        if failure is not None:
            raise failure

    def together(self, work: Callable[[], object]) -> None:
        """Do something in every process, and wait for all; when it fails in one, all fail.

        Raises:
            OtherRankError: in the processes where it went well, with the first reason of the others.
        """
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error
        reasons = self.gather(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for reason in reasons:
            if reason is not None:
                raise OtherRankError(reason)

    def check_equal(self, what: str, mine: object) -> None:
        """Raise OtherRankError when the processes do not all see the same, on every one of them."""
        found = self.gather(mine)
        other = next((rank for rank, seen in enumerate(found) if seen != found[0]), None)
        if other is not None:
            raise OtherRankError(
                f"{what} is not the same everywhere: rank 0 sees {found[0]}, rank {other} sees {found[other]}. Give "
                "every machine the same files"
            )


ALONE = Processes()


def start_processes() -> Processes:
    """Return this process among those of the run, after they have found each other.

    Started by torchrun, by Ray, or with `torch.distributed` joined already, it is one of several; the GPUs of a machine
    go round among its processes, and without any they compute on the CPU, joined by gloo.
    """
    cuda = torch.cuda.is_available()
    joined = distributed.is_available() and distributed.is_initialized()
    if not joined and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(device=torch.device("cuda" if cuda else "cpu"))
    from accelerate import PartialState

    state = PartialState(cpu=not cuda, timeout=PATIENCE)
    device = torch.device(state.device) if cuda else torch.device("cpu")
    return Processes(distributed.get_rank(), distributed.get_world_size(), max(state.local_process_index, 0), device)
