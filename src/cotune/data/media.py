"""Pictures on disk: load one as RGB whatever it is stored as, and check many without decoding them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cotune import messages
from cotune.errors import DataError
from cotune.messages import Sample

# Others that Pillow knows are left out: some start programs (EPS), none is used for training data.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
WHITE = (255, 255, 255, 255)


class _RefusedError(Exception):
    """A picture that is not decoded, for the reason in the text."""


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture in a file as 8-bit RGB, turned as its EXIF says; transparent parts become white.

    Of an animated file it is the first frame; 16-bit greyscale is scaled to 8 bits. Colour profiles are not applied.

    Raises:
        DataError: naming the file and why it cannot be used: missing, damaged, cut off, larger than `max_pixels` ...
    """
    try:
        with _opened(path, max_pixels) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    # Damaged files end in almost any error, depending on the format and on the damage.
    except Exception as error:
        raise DataError("a picture cannot be loaded", [f"{path}: {_reason(error, path)}"]) from error


def check_media(samples: Iterable[Sample], progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Return what is wrong with the media of some samples: files that are missing, empty or, by header, no picture.

    Each file is looked at once and not decoded; the sample that uses it is named. `progress(done, total)` is called
    after each file.
    """
    users: dict[messages.Image | messages.Audio, list[Sample]] = {}
    for sample in samples:
        for part in dict.fromkeys(sample.media):
            users.setdefault(part, []).append(sample)
    problems: list[str] = []
    for done, (part, using) in enumerate(users.items(), start=1):
        try:
            if isinstance(part, messages.Image):
                with _opened(part.path, MAX_PIXELS):
                    pass
            else:
                _refuse_nothing_there(part.path)
        except Exception as error:
            others = f" and {len(using) - 1} more" if len(using) > 1 else ""
            problems.append(
                f"{part.path}: {_reason(error, part.path)} (used by sample '{using[0].id}'{others}, {using[0].origin})"
            )
        if progress is not None:
            progress(done, len(users))
    return problems


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture, its header read and nothing decoded; one with too many pixels is refused."""
    _refuse_nothing_there(path)
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise _RefusedError(f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded")
        yield image


def _refuse_nothing_there(path: Path) -> None:
    """Refuse a path that holds no file, or an empty one."""
    if not path.is_file():
        raise _RefusedError("a folder, not a file" if path.is_dir() else "there is no such file")
    if path.stat().st_size == 0:
        raise _RefusedError("the file is empty; fetch it again")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded picture of any mode as 8-bit RGB."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_sixteen_bits(image).convert("RGB")
    if image.mode == "F":
        raise _RefusedError("its pixels are floating-point numbers without a known range; save it with 8 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, WHITE)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit greyscale scaled to 8 bits; Pillow's own conversion would cut all above 255 to white."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise _RefusedError("its pixels have more than 16 bits; save it with 8 bits")
    values = values.astype(np.uint32)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _reason(error: Exception, path: Path) -> str:
    """Return why a picture cannot be used, in plain words."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            start = file.read(16)
        return f"no picture in a known format ({', '.join(FORMATS)}), or a damaged one: it starts with {start!r}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "more pixels than Pillow decodes; make the picture smaller"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"cannot be decoded ({error or type(error).__name__}); the file is damaged or cut off: fetch it again"
