"""Fixtures for every room: tiny models made once, a private cache, no network, no files left behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("cotune", deadline=None)
settings.load_profile("cotune")

# Read when the hub's library is imported, so before any test.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models and data; do not write into it."""
    from tests.tiny import tiny_recipe

    root = tmp_path_factory.mktemp("tiny")
    tiny_recipe(root)
    return root


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    """A private copy of the tiny models and data."""
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_root, copy)
    return copy


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Keep the user's cache out of the tests."""
    if "real" not in request.keywords:
        monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cotune-cache"))


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Use as `with full_disk():`; every text written inside stops half-way."""
    write_text = Path.write_text

    def stop_half_way(self: Path, text: str, *args: Any, **options: Any) -> int:
        write_text(self, text[: len(text) // 2], *args, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def full() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", stop_half_way)
            yield

    return full
