"""Fixtures for the server: one tiny model, and a server of it for each file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cotune.model.multimodal_lm import MultimodalLM
from tests.model.test_joined_media import fresh
from tests.serving.live_server import Live, live_server


@pytest.fixture(scope="session")
def served_model(tiny_root: Path) -> MultimodalLM:
    """A tiny model that sees and hears, whose every adapter does something; no test may change it."""
    return fresh(tiny_root)


@pytest.fixture(scope="module")
def live(served_model: MultimodalLM) -> Iterator[Live]:
    """A real server of it on a real port, for all tests of a file."""
    with live_server(served_model) as running:
        yield running
