"""Text files that are there whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cotune.errors import RunFolderError, describe_write_error


def write_whole(file: Path, text: str) -> None:
    """Write a text file, its folder made when missing; a failure leaves what was there before, and nothing else.

    Raises:
        RunFolderError: saying what went wrong and what to do.
    """
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunFolderError(f"{file} cannot be written: {describe_write_error(error)}") from error
