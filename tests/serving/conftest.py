"""Fixtures for the page (a browser for each file, a fresh tab for each test) and for the server (one tiny model)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotune.model.multimodal_lm import MultimodalLM
from tests.model.test_joined_media import fresh
from tests.serving.browser import Shown, chromium
from tests.serving.fake_server import FakeServer, serving
from tests.serving.live_server import Live, live_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; not longer than a file, because its event loop would stand in the way of other tests."""
    with chromium() as found:
        yield found


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server that streams what a test gives it."""
    with serving() as running:
        yield running


@pytest.fixture
def shown(browser: Any, server: FakeServer) -> Iterator[Shown]:
    """The page, open; a script error or something the policy refused fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme="light")
    page = Shown(context, server).open()
    yield page
    context.close()
    assert page.faults == []


@pytest.fixture(scope="session")
def served_model(tiny_root: Path) -> MultimodalLM:
    """A tiny model that sees and hears, whose every adapter does something; no test may change it."""
    return fresh(tiny_root)


@pytest.fixture(scope="module")
def live(served_model: MultimodalLM) -> Iterator[Live]:
    """A real server of it on a real port, for all tests of a file."""
    with live_server(served_model) as running:
        yield running
