"""Runs a function as several processes, each with its rank, as `torch.multiprocessing.spawn` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import multiprocessing


def run_ranks(rank: Callable[..., None], *arguments: Any, count: int = 2) -> None:
    """Call `rank(number, *arguments)` in `count` processes and wait for them; what one raises is raised here."""
    multiprocessing.spawn(_run, (rank, arguments), nprocs=count)  # type: ignore[no-untyped-call]


def _run(number: int, rank: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    rank(number, *arguments)
    # Threads of gloo may outlive its group; if the interpreter ends first, C++ aborts a process whose work is done.
    os._exit(0)
