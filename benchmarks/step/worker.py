"""What every contestant of the training-step benchmark shares: rounds on request, seconds and peak memory of each.

Nothing but Python's own library: the peers run in an environment without cotune.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROUND, COUNT = "round", "count"


class Worker:
    """One end of the pipe: waits for a request, and tells what came of it, one line of JSON each."""

    def __init__(self) -> None:
        # What libraries print must not come between the answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> str:
        """Return the next request; an empty one when there will be none."""
        return sys.stdin.readline().strip()

    def tell(self, **found: Any) -> None:
        """Answer the request."""
        print(json.dumps(found), file=self._answers, flush=True)


class Cost:
    """Seconds, and bytes of memory over what the process held before its first step (weights, libraries, data).

    Memory is the resident set's high-water mark (`VmHWM`), which the kernel sets back on request; the processor's
    seconds in the system are mostly pages handed out and taken back.
    """

    def __init__(self) -> None:
        _give_back()
        self.held = _status("VmRSS")

    def start(self) -> None:
        """Begin a round."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self._system = resource.getrusage(resource.RUSAGE_SELF).ru_stime
        self._started = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Return what the round took; then what it freed goes back to the system, for the next contestant."""
        found = {
            "seconds": time.perf_counter() - self._started,
            "system_seconds": resource.getrusage(resource.RUSAGE_SELF).ru_stime - self._system,
            "memory": _status("VmHWM") - self.held,
        }
        _give_back()
        return found


def _give_back() -> None:
    """Give freed memory back to the system, which the C library keeps otherwise."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    """Return a line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def touch(parameters: Any) -> float:
    """Read every weight once, so that none comes into memory only with the first step."""
    return float(sum(parameter.detach().float().sum() for parameter in parameters))
