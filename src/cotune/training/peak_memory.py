"""The largest memory this process has held."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory_bytes() -> int:
    """Return the largest memory this process has held: on the GPU when there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
