"""Threads beside the one that runs the model, kept from slowing it down.

PyTorch computes on a CPU with OpenMP, which keeps a team of helpers for every thread that has worked on a large tensor.
Where all teams together are more threads than there are cores, GCC's lets none of them wait actively from one operation
to the next, and each of a model's many operations then waits for them to wake. So only one thread may have a team.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

_SOFT = 1  # omp_pause_soft: what the program has set is kept


def threads_without_helpers(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of threads, all begun, that work on tensors by themselves; the caller's helpers are untouched."""
    helpers = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_compute_alone)
    all_begun = Barrier(count + 1)
    for _ in range(count):
        pool.submit(all_begun.wait)
    all_begun.wait()
    # The process' number is the one set last, in whichever thread; later threads are to find the caller's.
    torch.set_num_threads(helpers)
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # a thread's first look at the number takes the process' one, whatever was set before
    torch.set_num_threads(1)


def dismiss_helpers() -> None:
    """End the calling thread's team, for another thread that computes from now on; it gets a new one if it needs it.

    By OpenMP 5.0's `omp_pause_resource_all`. Where PyTorch brings no such library, nothing happens.
    """
    if os.name == "posix":
        loaded = ctypes.CDLL(None)
        if hasattr(loaded, "omp_pause_resource_all"):
            loaded.omp_pause_resource_all(_SOFT)
