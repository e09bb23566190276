"""Memory by component: weights, gradients, what the optimiser remembers, activations; and how sure the sum is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cotune.coordination.schedules import PRODIGY
from cotune.recipe import COMPONENT_MEDIUM, Recipe
from cotune.training.dry_step import CONNECTOR, StepCount

# What autograd keeps is counted. Gradients on their way through one layer come on top: from 3% (16 layers) to 21% (2
# layers) in real steps of tiny models in float32 on a CPU (docs/lavin.md).
_ON_THE_WAY, _MOST_ON_THE_WAY = 0.95, 0.82
# Assumed, not measured: the gaps a GPU's allocator leaves, and the device's own context.
_GAPS, _CONTEXT = 1.1, 2**29
# Eight-bit moments (Dettmers et al. 2022, arXiv 2110.02861): one scale of 32 bits for 256 values; below 4096 values
# bitsandbytes keeps 32 bits.
_BLOCK, _SMALL = 256, 4096


@dataclass(frozen=True)
class ComponentMemory:
    """Bytes of one component; `activations` is None for a model that cannot be counted on shapes alone."""

    weights: int
    gradients: int
    optimizer: int
    activations: int | None


@dataclass(frozen=True)
class MemoryRange:
    """Bytes a step takes at least, probably, and at most on a GPU whose allocator leaves gaps."""

    low: int
    expected: int
    high: int


def optimizer_bytes(recipe: Recipe, parameters: Iterable[Tensor]) -> int:
    """Return the bytes the recipe's optimiser remembers for some parameters."""
    name = _optimizer_name(recipe)
    return sum(remembered(name, recipe.coordination.options, parameter) for parameter in parameters)


def _optimizer_name(recipe: Recipe) -> str:
    return PRODIGY if recipe.coordination.rule == PRODIGY else recipe.training.optimizer


def remembered(name: str, options: Mapping[str, Any], parameter: Tensor) -> int:
    """Return the bytes remembered for one parameter: two moments, and what the optimiser adds or saves."""
    count, width = parameter.numel(), parameter.element_size()
    if name == PRODIGY:
        # The start and a weighted sum of gradients too, of every `slice_p`-th value (prodigyopt).
        sliced = -(-count // int(options.get("slice_p", 1)))
        return 2 * (count + sliced) * width
    if name == "adamw-8bit":
        return 8 * count if count < _SMALL else 2 * (count + 4 * -(-count // _BLOCK))
    return 2 * count * width


def memory_by_component(
    recipe: Recipe,
    parameters: Mapping[str, Mapping[str, nn.Parameter]],
    weights: Mapping[Tensor, int],
    count: StepCount | None,
    llm_activations: int | None,
) -> dict[str, ComponentMemory]:
    """Return the memory of every component.

    `parameters` are all of a component's by name, `weights` the bytes of each, `count` what autograd keeps by part; of
    the language model `llm_activations` count instead, which checkpointing lessens.
    """
    found = {}
    for name, named in parameters.items():
        learning = [parameter for parameter in named.values() if parameter.requires_grad]
        found[name] = ComponentMemory(
            weights=sum(weights[parameter] for parameter in named.values()),
            gradients=sum(parameter.numel() * parameter.element_size() for parameter in learning),
            optimizer=optimizer_bytes(recipe, learning),
            activations=None if count is None else _activations(name, count, llm_activations),
        )
    return found


def memory_range(weights: int, gradients_and_optimizer: int, activations: int, logits: int) -> MemoryRange:
    """Return what a step takes at least, probably and at most, from its counted parts."""
    kept, steady = activations + logits, weights + gradients_and_optimizer
    most = (steady + kept / _MOST_ON_THE_WAY) * _GAPS + _CONTEXT
    return MemoryRange(steady + kept, round(steady + kept / _ON_THE_WAY), round(most))


def _activations(name: str, count: StepCount, llm_activations: int | None) -> int | None:
    if name in COMPONENT_MEDIUM:
        return count.kept.get(COMPONENT_MEDIUM[name], 0)
    return count.kept.get(CONNECTOR, 0) if name == CONNECTOR else llm_activations
