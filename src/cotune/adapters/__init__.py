"""Routed linear adapters for any transformers decoder, and for convolutional encoders."""

from cotune.adapters.attach import AdapterHandle, attach
from cotune.adapters.mm_adapter import MMAdapter, MMAdapterConfig

__all__ = ["AdapterHandle", "MMAdapter", "MMAdapterConfig", "attach"]
