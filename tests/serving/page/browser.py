"""The page in a real headless Chromium, and the moves a user makes on it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# A microphone that beeps, and nobody who must be asked whether it may be used.
_MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
_PATIENCE = 30.0  # seconds, on a busy machine
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Whether a conversation in the page's database ends with a turn that has the text in it.
_KEPT = """(text) => new Promise((resolve) => {
  indexedDB.open("cotune").onsuccess = ({ target: { result: database } }) => {
    database.transaction("conversations").objectStore("conversations").getAll().onsuccess = ({ target }) => {
      database.close();
      resolve(target.result.some((conversation) => conversation.turns.at(-1)?.text?.includes(text)));
    };
  };
})"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a browser; skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as running:
        own = running.chromium.executable_path
        path = own if Path(own).is_file() else next(filter(None, map(shutil.which, _NAMES)), None)
        if path is None:
            pytest.skip("needs a Chromium: apt install chromium, or playwright install chromium")
        browser = running.chromium.launch(executable_path=path, args=_MICROPHONE)
        yield browser
        browser.close()


class Shown:
    """The page as shown in a tab of its own; what its console says and what it loads is kept."""

    def __init__(self, context: Any, address: str) -> None:
        self.context, self.address = context, address
        self.tab = context.new_page()
        self.tab.set_default_timeout(_PATIENCE * 1000)
        self.faults: list[str] = []
        self.loaded: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("console", lambda message: self.faults.append(message.text) if _is_fault(message.text) else None)
        self.tab.on("request", lambda request: self.loaded.append(request.url))

    def open(self) -> Shown:
        """Load the page, and wait until it is ready."""
        with self.tab.expect_response("**/v1/models"):
            self.tab.goto(self.address)
        self.tab.locator(":focus").wait_for()  # not wait_for_function: it would ask again by what the page forbids
        return self

    @property
    def question(self) -> Any:
        """The field one writes into."""
        return self.tab.get_by_role("textbox", name="Your question")

    @property
    def turns(self) -> Any:
        """Questions and answers, in order."""
        return self.tab.locator("#turns > li")

    @property
    def answer(self) -> Any:
        """The last answer."""
        return self.turns.last

    def button(self, name: str) -> Any:
        """Return the button with exactly this name."""
        return self.tab.get_by_role("button", name=name, exact=True)

    def attach(self, *files: Path) -> None:
        """Choose files, and wait until they are read."""
        self.tab.locator("#files").set_input_files([str(file) for file in files])
        for file in files:
            self.button(f"Remove {file.name}").wait_for()

    def ask(self, text: str) -> None:
        """Send a question without waiting for the answer."""
        self.question.fill(text)
        self.question.press("Enter")

    def ask_and_wait(self, text: str) -> str:
        """Send a question; return the text of its answer."""
        self.ask(text)
        return self.wait()

    def wait(self) -> str:
        """Wait until an answer has ended; return its text."""
        self.button("Send").wait_for()
        return self.answer.locator(".said").inner_text() if self.answer.locator(".said").count() else ""

    def wait_until_kept(self, text: str) -> None:
        """Wait until the browser keeps a conversation whose last turn has a text in it."""
        give_up = time.monotonic() + _PATIENCE
        while not self.tab.evaluate(_KEPT, text):
            assert time.monotonic() < give_up, f"{text!r} was not kept"
            self.tab.wait_for_timeout(50)

    def style(self, selector: str, name: str) -> str:
        """Return a computed style of the first element that a selector finds."""
        return str(
            self.tab.locator(selector).first.evaluate("(element, name) => getComputedStyle(element)[name]", name)
        )


def _is_fault(text: str) -> bool:
    """Whether a line of the console is a fault of the page; an HTTP error is told there too, and is none."""
    return re.search(r"Content Security Policy|TrustedHTML|Uncaught|Refused", text) is not None
