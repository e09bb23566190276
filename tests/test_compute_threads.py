"""Threads beside the model's: counted by the operating system, since that is where helpers show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch

from cotune.compute_threads import threads_without_helpers

_COUNTED = """
import os, time, torch
from concurrent.futures import ThreadPoolExecutor
from cotune.compute_threads import dismiss_helpers, threads_without_helpers

def running():
    return len(os.listdir("/proc/self/task"))

def running_at_last(wanted):
    # The system takes a moment to forget a thread that has ended.
    until = time.monotonic() + 30
    while running() != wanted and time.monotonic() < until:
        time.sleep(0.01)
    return running()

def compute():
    torch.ones(1 << 20).add_(1)
"""
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by Linux' /proc")


def counted(script: str) -> list[int]:
    """Return the numbers a script prints in a process of its own, where PyTorch computes with two threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _COUNTED + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@linux
def test_a_thread_of_the_pool_gets_no_helper_where_another_one_does() -> None:
    script = """
pool = threads_without_helpers(1, "beside")
before = running()
pool.submit(compute).result()
print(running() - before)
other = ThreadPoolExecutor(1)
other.submit(compute).result()
print(running() - before)
"""
    assert counted(script) == [0, 2]  # the other thread itself, and its helper


@linux
def test_dismissed_helpers_are_gone_and_come_back_when_needed() -> None:
    script = """
before = running()
compute()
print(running() - before)
dismiss_helpers()
print(running_at_last(before) - before)
compute()
print(running() - before)
"""
    assert counted(script) == [1, 0, 1]


def test_other_threads_compute_with_as_many_as_before() -> None:
    before, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(3)
        with threads_without_helpers(2, "beside") as pool:
            inside = list(pool.map(lambda _: torch.get_num_threads(), range(8)))
        later = Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert inside == [1] * 8
        assert found == [3] == [torch.get_num_threads()]
    finally:
        torch.set_num_threads(before)


@linux
def test_without_helpers_there_is_nothing_to_dismiss() -> None:
    script = """
before = running()
dismiss_helpers()
dismiss_helpers()
print(running() - before)
"""
    assert counted(script) == [0]
