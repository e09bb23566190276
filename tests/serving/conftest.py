"""One tiny model that sees and hears, and one server of it, for all tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cotune.model.multimodal_lm import MultimodalLM
from tests.model.test_joined_media import fresh
from tests.serving.live_server import Live, live_server


@pytest.fixture(scope="session")
def served_model(tiny_root: Path) -> MultimodalLM:
    return fresh(tiny_root)


@pytest.fixture(scope="module")
def live(served_model: MultimodalLM) -> Iterator[Live]:
    with live_server(served_model) as running:
        yield running
