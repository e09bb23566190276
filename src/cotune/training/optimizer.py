"""The optimiser: AdamW with groups that know their component, and the base schedule all components share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn
from torch.optim import AdamW

from cotune.coordination.components import Component
from cotune.errors import RecipeError
from cotune.recipe import Training


def make_optimizer(components: Mapping[str, Component], settings: Training) -> AdamW:
    """Return AdamW with one group per component and decay setting; vectors such as biases are not decayed.

    Raises:
        RecipeError: when nothing is trainable.
    """
    groups = []
    for name, component in components.items():
        matrices = [parameter for parameter in component.trainable if parameter.ndim > 1]
        vectors = [parameter for parameter in component.trainable if parameter.ndim <= 1]
        for parameters, decay in ((matrices, settings.weight_decay), (vectors, 0.0)):
            if parameters:
                groups.append({"params": parameters, "component": name, "weight_decay": decay})
    if not groups:
        raise RecipeError("nothing to train", ["components: every component is frozen; set `tune` of at least one"])
    return AdamW(groups, lr=0.0, betas=settings.betas, fused=True)


def schedule_factor(step: int, settings: Training) -> float:
    """Return the base schedule's factor in (0, 1] for a step counted from 1: warm-up, plateau, decay."""
    warm = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    decay_steps = settings.decay_share * settings.steps
    if settings.schedule == "constant" or not decay_steps:
        return warm
    left = min(1.0, (settings.steps - step + 1) / decay_steps)
    return warm * (left if settings.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))


def clip(components: Mapping[str, Component], limit: float | None) -> dict[str, float]:
    """Return each component's gradient norm before clipping, then clip all of them together to `limit`."""
    norms = {name: part.gradient_norm() for name, part in components.items() if part.trainable}
    if limit is not None:
        trainable = [parameter for part in components.values() for parameter in part.trainable]
        nn.utils.clip_grad_norm_(trainable, limit)
    return norms
