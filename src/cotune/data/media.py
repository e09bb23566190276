"""Pictures on disk: load one as RGB whatever it is stored as, or look for what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cotune.data.media_file import RefusedError, Source, plain_reason, refuse_nothing_there
from cotune.errors import DataError

# Others that Pillow knows are left out: some start programs (EPS), none is used for training data.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
_END_BYTES = 1024
WHITE = (255, 255, 255, 255)


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture in a file as 8-bit RGB, turned as its EXIF says; transparent parts become white.

    Of an animated file it is the first frame; 16-bit greyscale is scaled to 8 bits. Colour profiles are not applied.

    Raises:
        DataError: naming the file and why it cannot be used: missing, damaged, cut off, larger than `max_pixels` ...
    """
    return _decoded(path, str(path), max_pixels, FORMATS)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Return a picture that was sent, as `load_image` returns one of a file.

    Raises:
        DataError: why it cannot be used; `formats` are those that are decoded.
    """
    return _decoded(BytesIO(data), "the picture", max_pixels, formats)


def _decoded(source: Source, name: str, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    try:
        with _opened(source, max_pixels, formats) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    # Damaged files end in almost any error, depending on the format and on the damage.
    except Exception as error:
        raise DataError("a picture cannot be loaded", [f"{name}: {_reason(error, source, formats)}"]) from error


class PictureLook(NamedTuple):
    """What is wrong with a picture (None: nothing), and whether it holds more than one frame."""

    fault: str | None
    animated: bool = False


def look_at_picture(path: Path, *, decode: bool = False) -> PictureLook:
    """Return what a picture's header and end say of it, or (`decode`) all of it.

    A file that does not end as its format does is decoded to tell: it was cut off, or something harmless stands behind.
    """
    try:
        with _opened(path, MAX_PIXELS) as image:
            if decode or not _ends_well(path, image.format):
                _to_rgb(image)
            return PictureLook(None, _is_animated(image))
    except Exception as error:
        return PictureLook(_reason(error, path))


def _is_animated(image: Image.Image) -> bool:
    """Return whether an opened picture holds more than one frame; frames behind the first may be damaged."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return True


def _ends_well(path: Path, form: str | None) -> bool:
    """Return whether a file ends with what closes a picture of its format; false where the format has no end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(max(0, size - _END_BYTES))
        end = file.read()
    if form == "WEBP":  # RIFF: the length of what follows it stands at byte 4
        return int.from_bytes(start[4:8], "little") + 8 <= size
    if form == "GIF":
        return end.rstrip(b"\0").endswith(b";")
    return {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(form or "", b"\0" * (_END_BYTES + 1)) in end


@contextmanager
def _opened(path: Source, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture, its header read and nothing decoded; one with too many pixels is refused."""
    refuse_nothing_there(path)
    with Image.open(path, formats=formats) as image:
        if image.width * image.height > max_pixels:
            raise RefusedError(f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded")
        yield image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded picture of any mode as 8-bit RGB."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_sixteen_bits(image).convert("RGB")
    if image.mode == "F":
        raise RefusedError("its pixels are floating-point numbers without a known range; save it with 8 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, WHITE)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit greyscale scaled to 8 bits; Pillow's own conversion would cut all above 255 to white."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise RefusedError("its pixels have more than 16 bits; save it with 8 bits")
    values = values.astype(np.uint32)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _reason(error: Exception, path: Source, formats: tuple[str, ...] = FORMATS) -> str:
    """Return why a picture cannot be used, in plain words."""
    if isinstance(error, UnidentifiedImageError):
        return f"no picture in a known format ({', '.join(formats)}), or a damaged one: it starts with {_start(path)!r}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "more pixels than Pillow decodes; make the picture smaller"
    return plain_reason(error)


def _start(source: Source) -> bytes:
    if isinstance(source, BytesIO):
        return source.getvalue()[:16]
    with source.open("rb") as file:
        return file.read(16)
