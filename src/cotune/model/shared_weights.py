"""Two copies of one model that hold what they have in common once."""

from __future__ import annotations

from torch import nn


def share_weights(copy: nn.Module, original: nn.Module) -> int:
    """Let a copy of a model use the original's memory wherever their weights are the same; returns the bytes left over.

    The same are weights of one name, shape, precision and value, so neither model says anything else than before. They
    are compared one at a time, on the original's device. What differs stays the copy's own, where it is.
    """
    originals = dict(original.named_parameters())
    own = 0
    for name, parameter in copy.named_parameters():
        other = originals.get(name)
        if other is not None and _same(parameter, other):
            parameter.data = other.data
        else:
            own += parameter.numel() * parameter.element_size()
    return own


def _same(one: nn.Parameter, other: nn.Parameter) -> bool:
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and one.data.to(other.device).equal(other.data)
