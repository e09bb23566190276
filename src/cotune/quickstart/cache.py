"""The cache of finished assets: built in a staging folder, renamed into place when whole, never half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from cotune import __version__
from cotune.errors import AssetError
from cotune.quickstart.assets import Asset
from cotune.quickstart.space import explain_full_disk

RECORD = "asset.json"
RESULT = "result"


def cache_folder() -> Path:
    """Return the folder that holds finished assets: `COTUNE_CACHE` when set, else the user's cache folder."""
    chosen = os.environ.get("COTUNE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("cotune")


def asset_folder(asset: Asset) -> Path:
    """Return where the finished asset lies, or will lie."""
    return cache_folder() / f"{asset.name}-{asset.version}"


def is_finished(asset: Asset) -> bool:
    """Return whether the cache holds the asset whole, made from the right package by the present converter."""
    folder = asset_folder(asset)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        wanted = {"version": asset.version, "sha256": asset.sha256, "layout": asset.layout}
        # Programs that tidy cache folders delete single old files; fewer files than were made means that.
        return {key: record.get(key) for key in wanted} == wanted and len(_files(folder)) >= record["files"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


@contextmanager
def build_once(asset: Asset, on_wait: Callable[[], None]) -> Iterator[Path | None]:
    """Yield an empty staging folder to build the asset in, or None when it is finished already.

    What the block leaves in the staging folder's `result` becomes the asset's folder by one rename; when the block
    raises, nothing stays. Processes and threads that want the same asset wait for each other (`on_wait` is called
    once before waiting), and leftovers of a killed one are removed before the next builds.
    """
    cache = cache_folder()
    workplace = cache / ".staging" / asset.name
    with _locked(_make_folder(cache / ".locks") / f"{asset.name}.lock", on_wait):
        if is_finished(asset):
            yield None
            return
        shutil.rmtree(workplace, ignore_errors=True)
        try:
            # A new name each time: a program that outlived a killed fetch cannot write into this one.
            staging = Path(tempfile.mkdtemp(dir=_make_folder(workplace)))
            yield staging
            with explain_full_disk(asset, cache, "while finishing"):
                _publish(asset, staging)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)


def converted_with(asset: Asset) -> dict[str, str]:
    """Return the installed versions of what converts the asset, cotune's first."""
    return {"cotune": __version__} | {name: _version(name) for name in asset.made_with}


def _publish(asset: Asset, staging: Path) -> None:
    result, folder = staging / RESULT, asset_folder(asset)
    record = {
        "name": asset.name,
        "package": asset.package,
        "version": asset.version,
        "sha256": asset.sha256,
        "licence": asset.licence,
        "about": asset.about,
        "layout": asset.layout,
        "files": len(_files(result)) + 1,
        "converted_with": converted_with(asset),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (result / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    # Some writers make files that only their owner may read; a cache is shared by several people at times.
    mode = result.stat().st_mode & 0o666
    for file in _files(result):
        file.chmod(mode)
    # Without this a power cut soon after the rename could leave empty files under the finished name.
    if hasattr(os, "sync"):
        os.sync()
    if folder.exists():
        folder.rename(staging / "replaced")
    result.rename(folder)


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"cannot create {folder} in the cache: {error.strerror or error}. "
            "Set COTUNE_CACHE to a folder you may write to."
        ) from error
    if not os.access(folder, os.W_OK):
        raise AssetError(f"cannot write to {folder} in the cache. Set COTUNE_CACHE to a folder you may write to.")
    return folder


def _files(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
