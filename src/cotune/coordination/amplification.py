"""How many times a step is taken for the probe, so that 16-bit rounding does not hide what it changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import nn

from cotune.coordination.balance import Balance
from cotune.errors import BalanceError

# The divergence wanted: so many times what rounding alone makes of the predictions, and within bounds where it still
# grows with the square of the step.
_OVER_ROUNDING = 10.0
_LEAST_WANTED, _MOST_WANTED = 1e-3, 1e-2
_FIRST, _MOST = 30.0, 100.0
# So much more or less than wanted is rounding, or no longer the square.
_FAR_OFF = 10.0


class Amplification:
    """Chooses each part's factor: a fixed one, or, with "auto", what makes its divergence stand out from rounding.

    `rounding` is what a step far too short to count does to the predictions, measured as a KL divergence or another
    that grows with the square; None until it is known. "auto" brings the divergence to ten times that, between 1e-3
    and 1e-2. It is 1 where the model computes in 32 bits or more; else it learns from every measurement, from a guess
    on.

    Raises:
        BalanceError: for a factor below 1.
    """

    def __init__(self, setting: float | Literal["auto"]) -> None:
        if setting != "auto" and not setting >= 1:
            raise BalanceError(f"amplification: {setting} would shrink the step; give 1 or more, or 'auto'")
        self.setting = setting
        self.chosen: dict[str, float] = {}  # for the next measurement, by part
        self.rounding: float | None = None

    def factors(
        self, model: nn.Module, parts: Mapping[str, frozenset[str]], names: Collection[str], logits_dtype: torch.dtype
    ) -> dict[str, float]:
        """Return how many times the step of every part in `names` is taken; `parts` are their components that moved.

        Parts of the same components share one forward, and so one factor.
        """
        if self.setting != "auto":
            return dict.fromkeys(names, float(self.setting))
        if not rounds(model, logits_dtype):
            return dict.fromkeys(names, 1.0)
        first = {moved: name for name, moved in reversed(list(parts.items()))}
        return {name: self.chosen.get(first[parts[name]], _FIRST) for name in names}

    def learn(self, balance: Balance, moved: Collection[str]) -> bool:
        """Choose the next factors of the parts that moved; return whether a first one, a mere guess, was far off."""
        far_off = False
        wanted_divergence = min(max(_OVER_ROUNDING * (self.rounding or 0.0), _LEAST_WANTED), _MOST_WANTED)
        for name, value in balance.divergence.items():
            size = math.sqrt(value ** (2 / balance.exponent))  # grows with the step
            if not math.isfinite(size) or name not in moved:
                continue
            wanted = math.sqrt(wanted_divergence) / size if size else _MOST
            best = min(max(wanted, 1.0), _MOST)
            guessed = name not in self.chosen and balance.amplification.get(name) == _FIRST
            if self.setting == "auto" and guessed and not 1 / _FAR_OFF <= (best / _FIRST) ** 2 <= _FAR_OFF:
                far_off = True
            self.chosen[name] = best
        return far_off


def rounds(model: nn.Module, logits_dtype: torch.dtype) -> bool:
    """Return whether anything is computed in 16 bits, by weights, by autocast, or as the logits show."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    device = next(model.parameters()).device.type
    return torch.is_autocast_enabled(device) or any(dtype.itemsize < 4 for dtype in (*dtypes, logits_dtype))
