"""From a name in a recipe to a folder on disk, fetching what is missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cotune.errors import AssetError, nearest
from cotune.quickstart.assets import Asset, find_asset
from cotune.quickstart.cache import RESULT, asset_folder, build_once, cache_folder, converted_with, is_finished
from cotune.quickstart.convert import convert, require_modules
from cotune.quickstart.display import Display
from cotune.quickstart.fetch import download
from cotune.quickstart.space import explain_full_disk, require_space
from cotune.quickstart.unpack import unpack

PREFIX = "quickstart:"


def resolve(path: str, relative_to: Path | None = None) -> str:
    """Return the folder or file a recipe's path means, fetching `quickstart:NAME` or `quickstart:NAME/sub/folder`.

    A path that exists (absolute, else below `relative_to`, else below the working folder) is returned as the
    path it is; anything else comes back unchanged, since it may be a name on a model hub.
    """
    if path.startswith(PREFIX):
        name, _, inside = path.removeprefix(PREFIX).partition("/")
        return str(_inside(ensure([name])[name], inside, path))
    given = Path(path).expanduser()
    for folder in (relative_to, Path()):
        if path and folder is not None and (folder / given).exists():
            return str(folder / given)
    return path


def ensure(names: Sequence[str], console: Console | None = None) -> dict[str, Path]:
    """Return the finished folder of each asset, fetching those the cache does not hold; progress goes to `console`."""
    # All names first: a typing error in the last one must not come to light after minutes of fetching.
    assets = {name: find_asset(name) for name in names}
    display = Display(console)
    return {name: _ensure_one(asset, display) for name, asset in assets.items()}


def _ensure_one(asset: Asset, display: Display) -> Path:
    folder = asset_folder(asset)
    # The whole point of a second call: no lock and no writing, so a cache that may only be read serves as well.
    if is_finished(asset):
        return folder
    require_modules(asset)
    started = time.monotonic()

    def on_wait() -> None:
        display.line(f"{asset.name}: another process is fetching it; waiting for it to finish")

    with build_once(asset, on_wait) as staging:
        if staging is None:
            return folder
        display.line(f"{asset.name}: {asset.about}; {asset.licence}; {asset.requirement}")
        _build(asset, staging, display)
    display.line(f"{asset.name}: ready after {time.monotonic() - started:.0f} s in {folder}")
    return folder


def _build(asset: Asset, staging: Path, display: Display) -> None:
    cache = cache_folder()
    require_space(asset, cache)
    archive, unpacked, result = staging / "download", staging / "unpacked", staging / RESULT
    with explain_full_disk(asset, cache, "while downloading"):
        file = download(asset, archive, display)
    with display.working(f"{asset.name}: unpacking"), explain_full_disk(asset, cache, "while unpacking"):
        unpack(asset, file, unpacked)
        file.unlink()
    with display.working(f"{asset.name}: converting"):
        _convert(asset, unpacked, result)


def _convert(asset: Asset, unpacked: Path, result: Path) -> None:
    try:
        with explain_full_disk(asset, cache_folder(), "while converting"):
            convert(asset, unpacked, result)
    except AssetError:
        raise
    except Exception as error:
        used = ", ".join(f"{name} {found}" for name, found in converted_with(asset).items())
        raise AssetError(
            f"{asset.name}: the package was fetched and verified, but converting it failed: "
            f"{type(error).__name__}: {error}. Used here: {used}; another version of these may be the cause."
        ) from error


def _inside(folder: Path, inside: str, asked: str) -> Path:
    """Return the file or folder `inside` an asset; what is not there is an `AssetError` that names what is."""
    path = folder
    for part in Path(inside).parts:
        present = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        if part not in present:
            # A folder of pictures has thousands of entries: too many to list, and none of them was meant.
            hint = nearest(part, present) if 0 < len(present) <= 40 else f" (it has {len(present)} entries)"
            raise AssetError(f"'{asked}': {path.relative_to(folder.parent)} holds no '{part}'{hint}")
        path = path / part
    return path
