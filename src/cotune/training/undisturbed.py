"""Scoring in the middle of training: everything that training goes on from is afterwards as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cotune.model.multimodal_lm import MultimodalLM
from cotune.training.random_state import random_state, restore_random_state


@contextmanager
def undisturbed(model: MultimodalLM) -> Iterator[None]:
    """Put back, when the block is left, the random generators, every module's mode and the adapters' routes."""
    before, modes = random_state(), [(module, module.training) for module in model.modules()]
    with ExitStack() as stack:
        if model.adapters is not None:
            stack.enter_context(model.adapters.kept_routes())
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            restore_random_state(before)
