"""What root-mean-square norms and gated layers compute, forward and backward: as written, or compiled.

As written, each operation passes over memory by itself. Compiled by PyTorch, each of the four functions is one pass;
what it computes on the way it does not round to 16 bits, so its last bits are others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cotune.errors import ModelError, first_line


class Kernels(NamedTuple):
    """The four functions; all of them take rows [rows, width]."""

    norm: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    norm_gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    gate: Callable[[Tensor, Tensor], Tensor]
    gate_gradients: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def norm(hidden: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return w * (x r) and r [rows, 1] = 1 / sqrt(mean(x^2) + epsilon), in float32 until the gain.

    Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """
    wide = hidden.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(hidden.dtype), scale


def norm_gradient(outer: Tensor, hidden: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient on x: r (g - x r^2 mean(g x)), with g the outer gradient times w."""
    wide, outer = hidden.float(), (outer * weight).float()
    along = torch.linalg.vecdot(outer, wide).unsqueeze(-1).mul_(scale.square()).div_(hidden.shape[-1])
    return torch.addcmul(outer, wide, along, value=-1).mul_(scale).to(hidden.dtype)


def gate(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up."""
    return functional.silu(gate).mul_(up)


def gate_gradients(outer: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients on gate and up; silu(gate) is made again."""
    return torch.ops.aten.silu_backward(outer * up, gate), functional.silu(gate).mul_(outer)


PLAIN = Kernels(norm, norm_gradient, gate, gate_gradients)


def compiled(device: torch.device, dtype: torch.dtype) -> Kernels:
    """Return the functions compiled for any number of rows, each tried once.

    Raises:
        ModelError: when they cannot be compiled on this machine.
    """
    kernels = Kernels(**{name: torch.compile(kernel, dynamic=True) for name, kernel in PLAIN._asdict().items()})
    rows, other, outer = torch.ones(3, 4, 16, device=device, dtype=dtype)  # no random ones: a run's are counted
    try:
        with torch.no_grad():
            _, scale = kernels.norm(rows, other[0], 1e-5)
            kernels.norm_gradient(outer, rows, other[0], scale)
            kernels.gate(rows, other)
            kernels.gate_gradients(outer, rows, other)
    except (RuntimeError, OSError) as error:
        raise ModelError(
            "model.llm.compile: PyTorch cannot compile here: on a CPU it takes a C++ compiler (apt install g++), "
            f"on a GPU Triton, which comes with PyTorch; or set it to false. It said: {first_line(error)}"
        ) from error
    return kernels
