"""What files of pictures and of sounds have in common: they may not be there, and may not be what they say."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

# What a decoder reads: a file, or one that was sent and lies in memory.
Source = Path | BytesIO
_OBJECT = re.compile(r"<[^<>]* object at 0x[0-9a-fA-F]+>")


class RefusedError(Exception):
    """A file that is not decoded, for the reason in the text."""


def refuse_nothing_there(path: Source) -> None:
    """Raise a `RefusedError` for a path that holds no file, or an empty one."""
    if isinstance(path, BytesIO):
        if not path.getbuffer().nbytes:
            raise RefusedError("it is empty")
        return
    if not path.is_file():
        raise RefusedError("a folder, not a file" if path.is_dir() else "there is no such file")
    if path.stat().st_size == 0:
        raise RefusedError("the file is empty; fetch it again")


def plain_reason(error: Exception) -> str:
    """Return why a file cannot be used, in plain words, for any error its decoder may end in."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    said = _OBJECT.sub("the data", str(error)) or type(error).__name__
    return f"cannot be decoded ({said}); the file is damaged or cut off: fetch it again"
