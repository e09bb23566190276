import errno
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cotune.errors import AssetError
from cotune.quickstart import Asset, ensure
from cotune.quickstart.commands import CommandResult
from cotune.quickstart.convert import CONVERTERS
from cotune.quickstart.space import readable

from .conftest import FakeRegistry, leftovers


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


FULL = OSError(errno.ENOSPC, "No space left on device")


def full_disk_text(cache: Path) -> str:
    with pytest.raises(AssetError) as caught:
        ensure(["tiny"])
    text = str(caught.value)
    assert text.startswith(f"tiny: not enough disk space in {cache} (")
    assert "0.0 MB needed" in text
    assert " free. " in text
    assert "COTUNE_CACHE" in text
    assert leftovers(cache) == []
    return text


def test_too_little_space_is_refused_before_the_download(
    tiny: Asset, cache: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10_000, 9_001, 999))
    assert "before the download began" in full_disk_text(cache)
    assert registry.commands == []


def test_just_enough_space_is_accepted(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10_000, 9_000, 1000))
    assert ensure(["tiny"])["tiny"].is_dir()


def test_a_disk_that_fills_up_while_pip_downloads(tiny: Asset, cache: Path, registry: FakeRegistry) -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    registry.failure = CommandResult(1, said)
    assert "while downloading" in full_disk_text(cache)


def test_a_disk_that_fills_up_while_unpacking(tiny: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = zipfile.ZipFile.extractall

    def half(package: zipfile.ZipFile, target: Path) -> None:
        real(package, target, package.namelist()[:1])
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", half)
        assert "while unpacking" in full_disk_text(cache)
    assert (ensure(["tiny"])["tiny"] / "tiny" / "deep" / "down.txt").exists()


@pytest.mark.parametrize(
    "error", [FULL, OSError(errno.EDQUOT, "quota"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_disk_that_fills_up_while_converting(
    tiny: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setitem(CONVERTERS, "copy", raising(error))
    assert "while converting" in full_disk_text(cache)


def test_a_disk_that_fills_up_at_the_very_end(tiny: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", raising(FULL))
    assert "while finishing" in full_disk_text(cache)


@pytest.mark.parametrize(
    ("count", "text"), [(3_215_672, "3.2 MB"), (92_871_040, "93 MB"), (1_600_000_000, "1.6 GB"), (0, "0.0 MB")]
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert readable(count) == text
