"""Norms and gated layers of frozen models that keep less for the backward pass, and make their gradient at once.

Autograd keeps what every small operation saw: of a root-mean-square norm a copy in float32, of `silu(gate) * up` three
tensors as wide as the layer. Both need less, and their gradients in closed form pass over memory fewer times. The
forward pass takes the same operations in the same order, so its bits are those of transformers' own.

Which layers these are is found by trial: a class of layers is changed only if a small one of it, with random weights,
gives the very bits that the formula here does, in float32 and in bfloat16. All others stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from inspect import signature
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from cotune.model.layer_kernels import PLAIN, Kernels

_EPSILONS = ("variance_epsilon", "eps")
_GATED = ("gate_proj", "up_proj", "down_proj")
_SMALL = 16
Forward = Callable[..., Tensor]


def keep_less(llm: nn.Module, kernels: Kernels = PLAIN) -> int:
    """Let the norms and gated layers of a language model keep less; returns how many of its layers do from now on.

    Where they learn nothing themselves and a gradient passes through, they compute by `kernels`. Also on the meta
    device, so that what is counted there is what will run.
    """
    by_class: dict[type[nn.Module], list[nn.Module]] = {}
    for module in llm.modules():
        if _is_norm(module) or _is_gated(module):
            by_class.setdefault(type(module), []).append(module)
    changed = 0
    for found in by_class.values():
        forward = _norm_forward if _is_norm(found[0]) else _gated_forward
        as_written = partial(forward, PLAIN)
        if all(_same_bits(found[0], as_written, dtype) for dtype in (torch.float32, torch.bfloat16)):
            for module in found:
                module.forward = MethodType(partial(forward, kernels), module)
            changed += len(found)
    return changed


def _is_norm(module: nn.Module) -> bool:
    """Return whether it may be a root-mean-square norm: a gain, and something to add below the root."""
    own = dict(module.named_parameters())
    return list(own) == ["weight"] and own["weight"].dim() == 1 and any(hasattr(module, name) for name in _EPSILONS)


def _is_gated(module: nn.Module) -> bool:
    """Return whether it may be a gated layer: three linear ones, quantised or not, and an activation."""
    return all(isinstance(getattr(module, name, None), nn.Module) for name in (*_GATED, "act_fn"))


@torch.no_grad()
def _same_bits(module: nn.Module, forward: Forward, dtype: torch.dtype) -> bool:
    """Return whether `forward` gives what a small layer of this class gives on random numbers."""
    if len(signature(module.forward).parameters) != 1:
        return False
    with torch.random.fork_rng([]), torch.device("cpu"):
        torch.manual_seed(0)
        small, hidden = _small(module, dtype), torch.randn(2, 3, _SMALL, dtype=dtype)
    try:
        expected = type(small).forward(small, hidden)
        with torch.enable_grad():
            found = forward(small, hidden.requires_grad_())
    except (RuntimeError, ValueError):  # it holds more than what was made small, and does not fit any more
        return False
    return torch.equal(found.detach(), expected)


def _small(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a layer of the same class and settings, `_SMALL` wide, with random weights on the CPU.

    Whatever else it holds it shares with `module`, which is left as it is.
    """
    small = copy(module)
    if _is_norm(module):
        weight = torch.randn(_SMALL, dtype=dtype)  # ones would hide where they are applied
        small._parameters = module._parameters | {"weight": nn.Parameter(weight, requires_grad=False)}
    else:
        linear = {name: nn.Linear(_SMALL, _SMALL, dtype=dtype).requires_grad_(False) for name in _GATED}
        small._modules = module._modules | linear
    return small


def _norm_forward(kernels: Kernels, module: Any, *inputs: Tensor, **named: Tensor) -> Tensor:
    (hidden,) = (*inputs, *named.values())
    if not torch.is_grad_enabled() or not hidden.requires_grad or module.weight.requires_grad:
        plain: Tensor = type(module).forward(module, hidden)
        return plain
    epsilon = next(getattr(module, name) for name in _EPSILONS if hasattr(module, name))
    output: Tensor = _RootMeanSquareNorm.apply(hidden, module.weight, epsilon, kernels)  # type: ignore[no-untyped-call]
    return output


def _gated_forward(kernels: Kernels, module: Any, *inputs: Tensor, **named: Tensor) -> Tensor:
    (x,) = (*inputs, *named.values())
    gate, up = module.gate_proj(x), module.up_proj(x)
    if not torch.is_grad_enabled() or not gate.requires_grad or not up.requires_grad:
        gated = module.act_fn(gate) * up
    else:
        gated = _GatedProduct.apply(gate, up, kernels)  # type: ignore[no-untyped-call]
    output: Tensor = module.down_proj(gated)
    return output


class _RootMeanSquareNorm(torch.autograd.Function):
    """A norm that keeps its input and one number a row. The gain is frozen."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, weight: Tensor, epsilon: float, kernels: Kernels) -> Tensor:
        output, scale = kernels.norm(_rows(hidden), weight.detach(), epsilon)
        context.save_for_backward(hidden, weight, scale)
        context.kernels = kernels
        return output.view(hidden.shape)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        hidden, weight, scale = context.saved_tensors
        of_hidden = context.kernels.norm_gradient(_rows(gradients[0]), _rows(hidden), weight.detach(), scale)
        return of_hidden.view(hidden.shape), None, None, None


class _GatedProduct(torch.autograd.Function):
    """silu(gate) * up, of which silu(gate) is made again for the backward pass."""

    @staticmethod
    def forward(context: Any, gate: Tensor, up: Tensor, kernels: Kernels) -> Tensor:
        context.save_for_backward(gate, up)
        context.kernels = kernels
        return kernels.gate(_rows(gate), _rows(up)).view(gate.shape)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = context.saved_tensors
        of_gate, of_up = context.kernels.gate_gradients(_rows(gradients[0]), _rows(gate), _rows(up))
        return of_gate.view(gate.shape), of_up.view(up.shape), None


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor as [rows, width], alike to a compiled function whatever shape it had and whether it learns."""
    return tensor.detach().reshape(-1, tensor.shape[-1])
