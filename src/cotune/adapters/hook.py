"""The forward pre-hook that puts an adapter in front of a module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cotune.adapters.isolation import isolating_mask
from cotune.adapters.mm_adapter import MMAdapter
from cotune.adapters.sites import Site
from cotune.errors import ModelError

Call = tuple[tuple[Any, ...], dict[str, Any]]


def rewrite_input(site: Site, adapter: MMAdapter) -> Any:
    """Return a pre-hook that adapts the hidden states, whether they come by position or by keyword.

    Where the adapter's route brings segments, the attention mask is told of them as well.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        route, hidden = adapter.route, kwargs.get("hidden_states")
        segments = None if route is None else route.segments
        if segments is not None and "attention_mask" in kwargs:
            kwargs = {**kwargs, "attention_mask": isolating_mask(kwargs["attention_mask"], segments)}
        if isinstance(hidden, Tensor):
            return args, {**kwargs, "hidden_states": adapter(hidden)}
        if args and isinstance(args[0], Tensor):
            return (adapter(args[0]), *args[1:]), kwargs
        name = next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)
        if name is None:
            raise ModelError(f"{site.name}: its call holds no hidden states to adapt (keywords: {', '.join(kwargs)})")
        return args, {**kwargs, name: adapter(kwargs[name])}

    return hook
