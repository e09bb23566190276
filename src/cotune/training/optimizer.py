"""The optimiser, with groups that know their component, and the base schedule all components share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from cotune.coordination.components import Component
from cotune.coordination.prodigy import ProdigyPerComponent
from cotune.coordination.schedules import PRODIGY
from cotune.errors import RecipeError
from cotune.recipe import Training
from cotune.recipe.coordination import Coordination


def make_optimizer(
    components: Mapping[str, Component], settings: Training, coordination: Coordination | None = None
) -> Optimizer:
    """Return the recipe's optimiser, or Prodigy where that is the rule, with groups by component and decay setting.

    Vectors and biases are not decayed. Prodigy finds the rates itself: its groups' rate is 1, times the base schedule,
    and `coordination.options` are its own.

    Raises:
        RecipeError: when nothing is trainable, or the optimiser's package is not installed.
        ModelError: when Prodigy is not installed or refuses an option.
    """
    groups: list[dict[str, Any]] = []
    for name, component in components.items():
        decayed = [parameter for path, parameter in component.named.items() if _decays(path, parameter)]
        plain = [parameter for path, parameter in component.named.items() if not _decays(path, parameter)]
        for parameters, decay in ((decayed, settings.weight_decay), (plain, 0.0)):
            if parameters:
                groups.append({"params": parameters, "component": name, "weight_decay": decay})
    if not groups:
        raise RecipeError("nothing to train", ["components: every component is frozen; set `tune` of at least one"])
    if coordination is not None and coordination.rule == PRODIGY:
        return ProdigyPerComponent(groups, **{"betas": settings.betas, **coordination.options})
    if settings.optimizer == "adamw-8bit":
        return _adamw_8bit()(groups, lr=0.0, betas=settings.betas)
    return AdamW(groups, lr=0.0, betas=settings.betas, fused=True)


def _adamw_8bit() -> Callable[..., Optimizer]:
    """Return AdamW with moments of 8 bits (Dettmers et al. 2022, arXiv 2110.02861) by bitsandbytes.

    It keeps parameters of fewer than 4096 values in 32 bits.

    Raises:
        RecipeError: when bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            "the optimiser", ["training.optimizer=adamw-8bit needs bitsandbytes: pip install 'cotune[quantize]'"]
        )
    from bitsandbytes.optim import AdamW8bit

    found: Callable[..., Optimizer] = AdamW8bit
    return found


def rates_in_force(optimizer: Optimizer, rates: Mapping[str, float]) -> dict[str, float]:
    """Return what steps are taken with, by component: the groups' rates, times Prodigy's estimate where that steps."""
    if not isinstance(optimizer, ProdigyPerComponent):
        return dict(rates)
    return {name: distance * rates[name] for name, distance in optimizer.distances().items()}


def _decays(path: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies; the biases of a site's experts lie in one matrix, and are biases still."""
    return parameter.ndim > 1 and not path.endswith("bias")


def schedule_factor(step: int, settings: Training) -> float:
    """Return the base schedule's factor in (0, 1] for a step counted from 1: warm-up, plateau, decay."""
    warm = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    decay_steps = settings.decay_share * settings.steps
    if settings.schedule == "constant" or not decay_steps:
        return warm
    left = min(1.0, (settings.steps - step + 1) / decay_steps)
    return warm * (left if settings.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))


def gradient_norms(components: Mapping[str, Component]) -> dict[str, float]:
    """Return the norm of every component's gradient, of those that learn."""
    return {name: part.gradient_norm() for name, part in components.items() if part.trainable}


def clip(components: Mapping[str, Component], limit: float | None, *, each: bool = False) -> dict[str, float]:
    """Return each component's gradient norm before clipping, then clip to `limit`: all together, or each by itself.

    Together, a component with a large gradient shrinks the steps of the others too; Adam forgets most of that.
    """
    norms = gradient_norms(components)
    if limit is None:
        return norms
    parts = [part.trainable for part in components.values() if part.trainable]
    for parameters in parts if each else [[parameter for part in parts for parameter in part]]:
        nn.utils.clip_grad_norm_(parameters, limit)
    return norms
