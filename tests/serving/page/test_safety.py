"""The page among strangers: HTML in an answer stays text, the policy holds, and every error says what to do."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cotune.serving.page import page, page_headers
from tests.serving.page.browser import Shown
from tests.serving.page.fake_server import FakeServer, Refusal, Reply

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload='window.hacked = 1'></svg>",
    "</p></li></ol><iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "<a href='javascript:window.hacked = 1'>press</a> [press](javascript:window.hacked=1)",
    "```html\n</code></pre><img src=x onerror='window.hacked = 1'>\n```",
    "`<img src=x onerror='window.hacked = 1'>`",
    "<style>body { display: none }</style><base href='https://example.com/'>",
    "<form action='https://example.com/'><button autofocus onfocus='window.hacked = 1'>",
]


class _Blocks(HTMLParser):
    """Collects the page's own scripts and styles, and everything that would load something."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.blocks: dict[str, list[str]] = {"script": [], "style": []}
        self.loads: list[str] = []
        self.open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.blocks:
            self.open = tag
            self.blocks[tag].append("")
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"], "the policy forbids these"

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open:
            self.blocks[self.open][-1] += data


def test_the_policy_names_the_pages_own_script_and_style_and_nothing_else() -> None:
    content = page()
    found = _Blocks()
    found.feed(content.decode())
    header = page_headers(content)["Content-Security-Policy"]
    policy = dict(part.strip().split(" ", 1) for part in header.split(";"))
    for tag, (block,) in found.blocks.items():
        expected = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{expected}'"
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert "unsafe" not in header and "*" not in header
    assert all(load.startswith(("#", "data:")) for load in found.loads)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", content.decode())


def test_nothing_is_loaded_from_elsewhere(shown: Shown, server: FakeServer) -> None:
    shown.ask_and_wait("Hello")
    assert shown.loaded and all(url.startswith((server.address, "data:", "blob:")) for url in shown.loaded)
    assert set(server.paths) == {"/", "/v1/models", "/v1/chat/completions"}


def test_an_injected_script_does_not_run(shown: Shown) -> None:
    """The policy bites: the page's own code, were it fooled, could not do this either."""
    inject = """(how) => {
      const element = document.createElement("script");
      try { how === "text" ? element.textContent = "window.hacked = 1" : document.body.innerHTML = "<b>x</b>"; }
      catch (error) { return error.name; }
      document.head.append(element);
      return "no error";
    }"""
    assert shown.tab.evaluate(inject, "html") == "TypeError"
    shown.tab.evaluate(inject, "text")
    assert shown.tab.evaluate("window.hacked") is None
    assert shown.faults  # the browser said why
    shown.faults.clear()


def test_html_from_anywhere_stays_text(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    name = "<img src=x onerror=window.hacked=1>.png"
    (tmp_path / name).write_bytes((Path(__file__).parents[3] / "docs/images/curves.png").read_bytes())
    server.models = [{"id": HOSTILE[1], "object": "model"}]
    shown.open()
    shown.attach(tmp_path / name)
    path = {"modality": HOSTILE[1], "path": HOSTILE[2], "routing": [[HOSTILE[1], 1]]}
    for text in HOSTILE:
        server.reply = Reply([text[:7], text[7:]], path)
        said = shown.ask_and_wait(text)
        assert said.strip() == text.removeprefix("```html\n").removesuffix("\n```").strip("`")
        assert shown.tab.locator(".question .said").last.inner_text() == text
    server.reply = Refusal(400, HOSTILE[1])
    shown.ask_and_wait("an error with HTML")
    assert HOSTILE[1] in shown.answer.inner_text()
    for _ in range(2):  # as it came, and as it is kept
        assert shown.tab.evaluate("window.hacked") is None
        assert shown.tab.locator("iframe, script:not([type=module]), a:not(.skip), form[action], base").count() == 0
        assert shown.tab.locator("main img").evaluate_all("(all) => all.map((one) => one.src.slice(0, 5))") == ["blob:"]
        assert shown.tab.locator("style").count() == 1
        shown.open()


ERRORS = {
    "busy": (Refusal(429, "The queue is full.", {"Retry-After": "7"}), ["The queue is full.", "Retry in 7 seconds."]),
    "too large": (Refusal(413, "The body has 30 MiB; 20 are allowed."), ["20 are allowed", "leave something out"]),
    "bad": (Refusal(400, "temperature: must be at most 2"), ["must be at most 2", "Edit the question"]),
    "elsewhere": (Refusal(403, "Not called by that name."), ["Not called by that name.", "the server printed"]),
    "server": (Refusal(500, "Something broke."), ["Something broke.", "the server's terminal says more"]),
    "cut": (Reply(["half "], finish=None), ["The answer broke off.", "cotune serve"]),
    "told midway": (Reply(["half "], error="out of memory", finish=None), ["out of memory", "Retry"]),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_shown_with_what_to_do(shown: Shown, server: FakeServer, kind: str) -> None:
    server.reply, told = ERRORS[kind]
    shown.ask_and_wait("A question that fails")
    failure = shown.answer.locator(".failure").inner_text()
    assert [part for part in told if part not in failure] == []
    shown.tab.get_by_role("status").get_by_text("No answer:").wait_for()
    server.reply = Reply(["Fine."])
    shown.ask_and_wait("Another")
    assert [message["role"] for message in server.asked] == ["user"]  # the failed one is left out, as the page says
    assert shown.tab.get_by_text("Later questions are asked without this one.").count() == 1
    shown.button("Retry").first.click()  # and can still be had
    assert shown.wait() == "Fine."
    assert server.asked[-1]["content"][-1]["text"] == "A question that fails"


def test_a_server_that_comes_up_late_is_found(shown: Shown, server: FakeServer) -> None:
    server.key = "not yet"
    shown.open()
    shown.tab.keyboard.press("Escape")
    server.key = None
    assert shown.ask_and_wait("Hello") == "It is blue."
    assert server.requests[-1]["model"] == "quickstart"


def test_a_server_that_is_gone_is_said(shown: Shown, server: FakeServer) -> None:
    server.shutdown()
    server.server_close()
    shown.ask_and_wait("Anyone there?")
    assert "does not answer" in shown.answer.locator(".failure").inner_text()
    assert "cotune serve" in shown.answer.locator(".failure").inner_text()


def test_a_key_is_asked_for_sent_and_not_kept_beyond_the_tab(shown: Shown, server: FakeServer) -> None:
    server.key = "secret"
    shown.open()
    assert shown.tab.get_by_role("dialog", name="Settings").is_visible()
    shown.tab.keyboard.type("wrong")
    shown.tab.keyboard.press("Enter")
    shown.tab.get_by_text("No or a wrong API key.").wait_for()
    shown.ask_and_wait("Hello")
    shown.button("Enter the key").click()
    shown.tab.get_by_label("API key").fill("secret")
    shown.button("Done").click()
    shown.tab.locator("#modelname").get_by_text("quickstart").wait_for()
    shown.button("Retry").click()
    assert shown.wait() == "It is blue."
    assert "secret" not in shown.tab.evaluate("JSON.stringify(localStorage)")


def test_a_nothing_and_a_cut_answer_are_named(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply([])
    shown.ask_and_wait("Say nothing")
    assert "The model answered with nothing." in shown.answer.inner_text()
    server.reply = Reply(["and so"], finish="length")
    shown.ask_and_wait("Say much")
    assert "reached its longest length" in shown.answer.inner_text()
    assert len(server.asked) == 1
