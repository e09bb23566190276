"""Disk space: refuse before starting when it will not suffice, and explain it when a disk fills up on the way."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cotune.errors import AssetError
from cotune.quickstart.assets import Asset

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "enough free space")


def readable(count: int) -> str:
    """Return a number of bytes the way people write it, such as `93 MB`."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count < 10_000_000 else f"{count / 1e6:.0f} MB"


def require_space(asset: Asset, folder: Path) -> None:
    """Raise an `AssetError` when the disk of `folder` has less free space than the asset needs on its way."""
    if shutil.disk_usage(folder).free < asset.bytes_needed:
        raise _full_disk(asset, folder, "before the download began")


def _full_disk(asset: Asset, folder: Path, moment: str) -> AssetError:
    """Return the error for a disk that is too full: the folder, what is needed, what is free, what to do."""
    free = shutil.disk_usage(folder).free
    return AssetError(
        f"{asset.name}: not enough disk space in {folder} ({moment}): {readable(asset.bytes_needed)} needed, "
        f"{readable(free)} free. Free some space there, or set COTUNE_CACHE to a folder on a larger disk."
    )


def says_full(text: str) -> bool:
    """Return whether a command's or a library's message says that the disk is full."""
    return any(mark in text.lower() for mark in _FULL_TEXTS)


@contextmanager
def explain_full_disk(asset: Asset, folder: Path, moment: str) -> Iterator[None]:
    """Turn every sign of a full disk inside the block into an `AssetError` that says what to do."""
    try:
        yield
    except AssetError:
        raise
    except Exception as error:
        # Libraries written in Rust or C report a full disk in exceptions of their own, so the text counts too.
        if (isinstance(error, OSError) and error.errno in _FULL) or says_full(str(error)):
            raise _full_disk(asset, folder, moment) from error
        raise
