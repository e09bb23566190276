"""Unpacks a verified package file into a folder; nothing in it runs, and nothing lands outside that folder."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from cotune.errors import AssetError
from cotune.quickstart import commands
from cotune.quickstart.assets import Asset
from cotune.quickstart.space import says_full


def unpack(asset: Asset, archive: Path, target: Path) -> None:
    """Unpack the package file into the new folder `target`."""
    target.mkdir()
    if asset.kind == "deb":
        _unpack_deb(asset, archive, target)
    else:
        _unpack_wheel(asset, archive, target)


def _unpack_wheel(asset: Asset, archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as package:
            for name in package.namelist():
                if _leads_outside(name):
                    raise AssetError(
                        f"{asset.name}: {archive.name} holds '{name}', which would be written outside the folder it "
                        "is unpacked into. Nothing was unpacked; do not use this file."
                    )
            package.extractall(target)
    except zipfile.BadZipFile as error:
        raise AssetError(f"{asset.name}: {archive.name} is not a readable zip file: {error}. Try again.") from error


def _unpack_deb(asset: Asset, archive: Path, target: Path) -> None:
    result = commands.run_command(["dpkg-deb", "-x", str(archive), str(target)], target, lambda: None)
    if result.code != 0:
        if says_full(result.errors):
            raise OSError(errno.ENOSPC, result.last_line)
        raise AssetError(f"{asset.name}: {archive.name} cannot be unpacked.\ndpkg-deb said: {result.last_line}")


def _leads_outside(name: str) -> bool:
    """Return whether a path is absolute or climbs up, read the POSIX way or the Windows way."""
    readings = (PurePosixPath(name), PureWindowsPath(name))
    return any(path.anchor or ".." in path.parts for path in readings)
