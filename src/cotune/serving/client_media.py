"""Pictures and sounds that a client sent: decoded in memory, within bounds; none is fetched or read from a file."""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cotune.data.media import decode_image
from cotune.data.sound import decode_sound
from cotune.errors import DataError, RequestError
from cotune.messages import AUDIO, IMAGE, Audio, Image
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.limits import Limits

_PICTURES = ("PNG", "JPEG", "WEBP", "GIF")
# How files of the sounds that are taken begin; everything else libsndfile knows is not tried.
_SOUNDS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa")


@dataclass(frozen=True)
class ClientMedium:
    """One picture or sound: its part of the conversation, the encoder's input, and what is worth saying about it.

    The part's path is a digest of what was sent; no file has that name.
    """

    part: Image | Audio
    made: Tensor
    note: str = ""


class MediaDecoder:
    """Makes encoder inputs of what clients send."""

    def __init__(self, model: MultimodalLM, limits: Limits) -> None:
        self.model, self.limits = model, limits

    def picture(self, url: str, place: str) -> ClientMedium:
        """Return the picture in a data URL; `place` names it in errors.

        Raises:
            RequestError: 400, when the model sees no pictures or this is none within the limits.
        """
        data = self._data(IMAGE, url.partition(",")[2], place)
        picture = _attempt(lambda: decode_image(data, self.limits.pixels, _PICTURES), place)
        return ClientMedium(Image(_name(IMAGE, data)), self.model.encoder(IMAGE).preprocess(picture))

    def sound(self, text: str, place: str) -> ClientMedium:
        """Return the sound in a base64 text; of one longer than the encoder hears, the beginning, which is noted.

        Raises:
            RequestError: 400, when the model hears nothing or this is no sound within the limits.
        """
        data = self._data(AUDIO, text, place)
        if not data.startswith(_SOUNDS):
            raise RequestError(400, f"{place}: no WAV, MP3, FLAC or OGG file", param=place)
        encoder = self.model.encoder(AUDIO)
        samples, seconds = _attempt(lambda: decode_sound(data, encoder.sample_rate, encoder.max_seconds), place)
        if seconds > self.limits.sound_seconds:
            raise RequestError(
                400, f"{place}: {seconds:.0f} s long; at most {self.limits.sound_seconds:.0f} s are taken", param=place
            )
        heard = encoder.max_seconds
        note = f"{place}: {seconds:.1f} s long, the first {heard:g} s were heard" if seconds > heard else ""
        return ClientMedium(Audio(_name(AUDIO, data)), encoder.preprocess(samples), note)

    def _data(self, medium: str, text: str, place: str) -> bytes:
        if medium not in self.model.encoders:
            raise RequestError(400, f"{place}: this model was tuned without an {medium} encoder", param=place)
        try:
            data = b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(400, f"{place}: not base64", param=place) from None
        if not data:
            raise RequestError(400, f"{place}: it is empty", param=place)
        return data


def _attempt(decode: Any, place: str) -> Any:
    try:
        return decode()
    except DataError as error:
        said = error.problems[0].partition(": ")[2] or "it cannot be decoded"
        raise RequestError(400, f"{place}: {said}", param=place) from None


def _name(medium: str, data: bytes) -> Path:
    return Path(f"{medium}-{hashlib.sha256(data).hexdigest()}")
