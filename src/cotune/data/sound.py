"""Sounds on disk: load the beginning of one as mono samples, whatever it is stored as, or look at its header only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.data.media_file import RefusedError, Source, plain_reason, refuse_nothing_there
from cotune.errors import DataError

Samples = npt.NDArray[np.float32]

# Rates and channels no recording has; a header that claims them is damaged.
_MAX_RATE = 768_000
_MAX_CHANNELS = 64
# Of a sound that was sent, samples a second over all channels: silence takes next to nothing to send, and half a
# gigabyte in memory at the highest rate and number of channels that its format allows.
_MAX_SENT = 768_000


def load_sound(path: Path, sample_rate: int, max_seconds: float) -> Samples:
    """Return the first `max_seconds` of a sound as float32 mono samples [n] at `sample_rate`.

    Channels are averaged; another rate is converted (soxr, high quality). Nothing behind `max_seconds` is decoded. The
    length is that of the samples found, whatever the header claims: a file cut off in the middle gives what is left of
    it where its format can be read that far (WAV, MP3).

    Raises:
        DataError: naming the file and why it cannot be used: missing, empty, damaged, of an unknown format, without
            samples, or with samples that are no numbers.
        DataError: when soundfile and soxr are not installed, with the command that installs them.
    """
    return _decoded(path, str(path), sample_rate, max_seconds)[0]


def decode_sound(data: bytes, sample_rate: int, max_seconds: float) -> tuple[Samples, float]:
    """Return a sound that was sent, as `load_sound` returns one of a file, and its length in seconds by its header.

    Raises:
        DataError: why it cannot be used.
    """
    return _decoded(BytesIO(data), "the sound", sample_rate, max_seconds)


def _decoded(source: Source, name: str, sample_rate: int, max_seconds: float) -> tuple[Samples, float]:
    soundfile, soxr = _libraries(name)
    try:
        with _opened(soundfile, source) as file:
            rate, claimed = file.samplerate, file.frames / file.samplerate
            if isinstance(source, BytesIO) and rate * file.channels > _MAX_SENT:
                raise RefusedError(f"{file.channels} channels at {rate} Hz; at most {_MAX_SENT:,} samples a second")
            channels = _read(file, frames=max(1, math.ceil(max_seconds * rate)))
        mono = channels.mean(axis=1, dtype=np.float64)
        _refuse_no_sound(mono)
        converted = mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate)
        # A conversion of a sound of a few samples may round its length to nothing.
        kept = np.asarray(converted if len(converted) else mono[:1], dtype=np.float32)
        return kept[: max(1, round(max_seconds * sample_rate))], claimed
    # Damaged files end in almost any error, depending on the format and on the damage.
    except Exception as error:
        raise DataError("a sound cannot be loaded", [f"{name}: {_reason(error)}"]) from error


def sound_fault(path: Path, *, decode: bool = False) -> str | None:
    """Return what is wrong with a sound by its header, or (`decode`) by its first minute; None when nothing is.

    Raises:
        DataError: when soundfile and soxr are not installed, with the command that installs them.
    """
    soundfile, _ = _libraries(str(path))
    try:
        with _opened(soundfile, path) as file:
            if decode:
                _refuse_no_sound(_read(file, frames=60 * file.samplerate).mean(axis=1, dtype=np.float64))
            return None if file.frames else "it holds no samples"
    except Exception as error:
        return _reason(error)


def is_cut_off(path: Path) -> bool:
    """Return whether a WAV file is shorter than its header says (RIFF: the length of what follows, at byte 4).

    Programs that write to a pipe leave the length at its largest or at zero; that says nothing.
    """
    with path.open("rb") as file:
        start = file.read(8)
    claimed = int.from_bytes(start[4:8], "little")
    return start[:4] == b"RIFF" and 0 < claimed < 0xFFFF_0000 and path.stat().st_size < claimed + 8


def _libraries(name: str) -> tuple[ModuleType, Any]:
    """Return soundfile and soxr, which only those who use sounds need."""
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError: soundfile without its C library
        raise DataError(
            "a sound cannot be loaded", [f"{name}: sounds need more packages ({error}): pip install 'cotune[audio]'"]
        ) from error
    return soundfile, soxr


@contextmanager
def _opened(soundfile: Any, path: Source) -> Iterator[Any]:
    """Open a sound, its header read and nothing decoded; a header that no recording has is refused."""
    refuse_nothing_there(path)
    with soundfile.SoundFile(path) as file:
        if not (0 < file.samplerate <= _MAX_RATE and 0 < file.channels <= _MAX_CHANNELS):
            raise RefusedError(
                f"its header claims {file.channels} channels at {file.samplerate} Hz: it is damaged, fetch it again"
            )
        yield file


def _read(file: Any, frames: int) -> npt.NDArray[np.float32]:
    """Return at most `frames` frames [n, channels], a second at a time.

    The memory follows what the file holds: a damaged header may claim hours.
    """
    parts: list[npt.NDArray[np.float32]] = []
    while frames > 0:
        part = file.read(min(frames, file.samplerate), dtype="float32", always_2d=True)
        if not len(part):
            break
        parts.append(part)
        frames -= len(part)
    return np.concatenate(parts) if parts else np.zeros((0, file.channels), np.float32)


def _refuse_no_sound(mono: npt.NDArray[np.float64]) -> None:
    if not len(mono):
        raise RefusedError("it holds no samples")
    if not np.isfinite(mono).all():
        raise RefusedError("it holds samples that are no numbers (NaN or infinite); export it again")


def _reason(error: Exception) -> str:
    """Return why a sound cannot be used, in plain words."""
    if "not recognised" in str(error) or "unknown format" in str(error).lower():
        return "no sound in a format that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF ...), or a damaged one"
    return plain_reason(error)
