"""Random pictures for the encoders."""

from __future__ import annotations

import numpy as np
from PIL import Image


def random_picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Return a picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
