"""Downloads a package by its name with the registry's ordinary client and checks its hash.

Where packages come from is the business of pip's and apt's own configuration: nothing here knows a host.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cotune.errors import AssetError
from cotune.quickstart import commands
from cotune.quickstart.assets import Asset
from cotune.quickstart.commands import CommandResult
from cotune.quickstart.display import Display
from cotune.quickstart.space import says_full

_CHUNK_BYTES = 1 << 20
_UNREACHABLE = (
    "connection broken by",
    "failed to establish a new connection",
    "temporary failure in name resolution",
    "temporary failure resolving",
    "could not resolve",
    "could not connect",
    "connection failed",
    "connection timed out",
    "connection reset",
    "network is unreachable",
    "max retries exceeded",
    "read timed out",
    "could not fetch url",
    "is not a trusted or secure host",
    "proxyerror",
    "sslerror",
)


def download(asset: Asset, folder: Path, display: Display) -> Path:
    """Return the downloaded and verified package file; everything the download writes lies in `folder`."""
    folder.mkdir()
    command, explain = _client(asset, folder)
    with display.counting(f"{asset.name}: downloading", asset.download_bytes) as show:
        result = commands.run_command(command, folder, lambda: show(_largest_file(folder)))
    if result.code != 0:
        # As if the disk had filled up under our own hands: whoever watches for that explains it.
        raise OSError(errno.ENOSPC, result.last_line) if says_full(result.errors) else explain(asset, result)
    archive = folder / asset.file_name
    if not archive.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file())) or "no file"
        raise AssetError(
            f"{asset.name}: the download of {asset.requirement} succeeded but brought {found} "
            f"in place of {asset.file_name}. Look at which registry your package client is configured to use."
        )
    verify(asset, archive, display)
    return archive


def verify(asset: Asset, archive: Path, display: Display) -> None:
    """Raise an `AssetError` unless the file has the hash that stands in the table."""
    digest = hashlib.sha256()
    with archive.open("rb") as stream, display.counting(f"{asset.name}: verifying", archive.stat().st_size) as show:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            show(stream.tell())
    if digest.hexdigest() != asset.sha256:
        raise AssetError(
            f"{asset.name}: the file that {asset.requirement} brought is not the expected one, so nothing was kept.\n"
            f"  file:     {asset.file_name}\n"
            f"  expected: sha256 {asset.sha256}\n"
            f"  found:    sha256 {digest.hexdigest()}\n"
            "Try again: a transfer may have been damaged. If the same hash comes back, the registry or mirror in use "
            "serves another file; do not use it before you know why."
        )


def _client(asset: Asset, folder: Path) -> tuple[list[str], Callable[[Asset, CommandResult], AssetError]]:
    """Return the command that downloads the package into `folder`, and what explains its failures."""
    if asset.kind == "deb":
        _require_debian(asset)
        return ["apt-get", "-q", "download", asset.requirement], _apt_problem
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    # The built file only: a source archive would run its own code. No pip cache: it would hold a second copy for
    # good, and after a damaged transfer it would serve the same bytes again.
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    return [*command, "--dest", str(folder), asset.requirement], _pip_problem


def _require_debian(asset: Asset) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise AssetError(
            f"{asset.name} is a Debian package and {' and '.join(missing)} cannot be found here: it can only be "
            "fetched on Debian or Ubuntu. Fetch it there (a container will do) and copy the folder into this "
            "machine's cache, or use another data set, such as quickstart:easy-vqa."
        )


def _pip_problem(asset: Asset, result: CommandResult) -> AssetError:
    text = result.errors.lower()
    said = f"\npip said: {result.last_line}"
    if "no module named pip" in text:
        return AssetError(
            f"{asset.name}: this Python ({sys.executable}) has no pip, which fetches the package. "
            f"Install it with `{sys.executable} -m ensurepip` (or `uv pip install pip`).{said}"
        )
    # pip ends with "no matching distribution" in both cases; only the list of versions it saw tells them apart.
    saw_versions = "(from versions:" in text and "(from versions: none)" not in text
    if not saw_versions and any(mark in text for mark in _UNREACHABLE):
        return _unreachable(asset, "pip", f"see `{sys.executable} -m pip config list`", said)
    if "no matching distribution found" in text or "could not find a version" in text:
        return AssetError(
            f"{asset.name}: the registry that pip is configured to use answers, but has no {asset.requirement}. "
            f"If it is a mirror, ask for the package to be added or point pip at a full one.{said}"
        )
    return AssetError(f"{asset.name}: pip could not download {asset.requirement}.{said}")


def _apt_problem(asset: Asset, result: CommandResult) -> AssetError:
    text = result.errors.lower()
    said = f"\napt-get said: {result.last_line}"
    if "unable to locate package" in text or ("version '" in text and "was not found" in text):
        return AssetError(
            f"{asset.name}: apt knows no {asset.requirement}. Run `sudo apt-get update` and try again; "
            f"`apt-cache policy {asset.package}` shows the versions this release of Debian or Ubuntu has.{said}"
        )
    if any(mark in text for mark in _UNREACHABLE):
        return _unreachable(asset, "apt-get", "see /etc/apt/sources.list", said)
    return AssetError(f"{asset.name}: apt-get could not download {asset.requirement}.{said}")


def _unreachable(asset: Asset, client: str, where: str, said: str) -> AssetError:
    return AssetError(
        f"{asset.name}: the registry that {client} is configured to use cannot be reached. Check the network, the "
        f"proxy and {client}'s configuration ({where}). On a machine without network, fetch it on another one and "
        f"copy the cache folder (COTUNE_CACHE).{said}"
    )


def _largest_file(folder: Path) -> int:
    """Return the size of the largest file: the growing download, wherever the client keeps it meanwhile."""
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except FileNotFoundError:
            continue  # the client moved or removed it since it was listed
    return largest
