"""The machine's measured matrix peak: operations a second of a large product, by PyTorch's two libraries for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

SIDE, TIMES = 2048, 5
WAYS = ("fp32", "bf16", "fp32 by oneDNN")


def matrix_peak(way: str) -> float:
    """Return the operations a second (two per multiply-add) of the best of some products of two large matrices.

    `torch.mm`, and with it every linear layer, uses the BLAS library for fp32 and oneDNN for bf16. oneDNN can do fp32
    as well, and is more than twice as fast where the BLAS library leaves the processor's widest instructions unused.
    """
    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    left, right = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)
    if way == "fp32 by oneDNN":
        return _best(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    return _best(lambda: left @ right)


def _best(product: Callable[[], Tensor]) -> float:
    return 2 * SIDE**3 / min(_seconds(product) for _ in range(TIMES))


def _seconds(way: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started
