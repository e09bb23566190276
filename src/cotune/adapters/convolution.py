"""Adapters inside a convolutional encoder: the same linear map as a 1x1 convolution in front of a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cotune.adapters.mm_adapter import MMAdapter, MMAdapterConfig
from cotune.adapters.routing import Route
from cotune.errors import ModelError


class ConvolutionAdapters(nn.Module):
    """Single-expert adapters on the inputs of named 1x1 convolutions; identity when new.

    Each picture is adapted by itself: the result never depends on the others in its batch.
    """

    def __init__(self, sites: Mapping[str, nn.Conv2d], config: MMAdapterConfig) -> None:
        super().__init__()
        self.sites = list(sites)
        self.adapters = nn.ModuleList()
        for name, convolution in sites.items():
            if convolution.kernel_size != (1, 1):
                raise ModelError(f"{name}: an adapter needs a 1x1 convolution, this one is {convolution.kernel_size}")
            adapter = MMAdapter(convolution.in_channels, config, experts=1)
            adapter.route = Route(torch.ones(1, 1))
            self.adapters.append(adapter)
            convolution.register_forward_pre_hook(_adapt_channels(adapter))


def _adapt_channels(adapter: MMAdapter) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        maps = args[0]  # [batch, channels, height, width]
        adapted: Tensor = adapter(maps.flatten(2).transpose(1, 2))  # [batch, height * width, channels]
        return adapted.transpose(1, 2).reshape(maps.shape)

    return hook
