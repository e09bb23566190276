"""The versions of everything that decides the numbers of a run."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("cotune", "torch", "transformers", "accelerate", "peft", "safetensors", "pillow", "numpy")


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that decides the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
