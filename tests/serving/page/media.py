"""Pictures and sounds to attach on the page, and what arrives of them."""

from __future__ import annotations

import base64
import wave
from pathlib import Path

import numpy as np
from PIL import Image

from tests.serving.page.fake_server import FakeServer


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return path


def sound(path: Path, rate: int = 8000, channels: int = 2) -> Path:
    samples = np.stack([np.sin(np.arange(rate // 2) / 5) * 9000] * channels, axis=1).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def sent_media(server: FakeServer) -> list[bytes]:
    """Return the bytes of every picture and sound in the last question."""
    parts = server.asked[-1]["content"]
    texts = [part["image_url"]["url"].partition("base64,")[2] for part in parts if part["type"] == "image_url"]
    texts += [part["input_audio"]["data"] for part in parts if part["type"] == "input_audio"]
    return [base64.b64decode(text, validate=True) for text in texts]
