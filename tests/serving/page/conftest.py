"""Fixtures for the page: a browser for each file, a server and a fresh tab for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.page.browser import Shown, chromium
from tests.serving.page.fake_server import FakeServer, serving


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
    page = Shown(context, server.address).open()
    yield page
    context.close()
    assert page.faults == []
