"""The page for everybody: contrast in both colour schemes, a phone's width, no mouse, a screen reader."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.serving.page.browser import Shown
from tests.serving.page.fake_server import FakeServer, Refusal, Reply
from tests.serving.page.media import picture, sound


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrasts(shown: Shown) -> Iterator[tuple[str, str, float, float]]:
    """Yield pairs of colours with their contrast and what it must be: text 4.5, borders 3 (WCAG 2.2 AA)."""
    probe = """(name) => { const element = document.createElement("i"); element.style.color = `var(--${name})`;
      document.body.append(element); const colour = getComputedStyle(element).color;
      element.remove(); return colour; }"""
    texts = ("ink", "muted", "accent", "danger", "text-mark", "image-mark", "audio-mark")
    pairs = [(one, two, 4.5) for one in texts for two in ("ground", "panel")]
    pairs += [("on-accent", "accent", 4.5), ("muted", "raised", 4.5), ("danger", "danger-ground", 4.5)]
    pairs += [("border", "ground", 3.0), ("border", "panel", 3.0), ("hot", "cold", 3.0)]
    for one, two, least in pairs:
        bright, dim = sorted((luminance(shown.tab.evaluate(probe, name)) for name in (one, two)), reverse=True)
        yield one, two, (bright + 0.05) / (dim + 0.05), least


def test_both_colour_schemes_have_contrast_and_the_switch_is_kept(shown: Shown) -> None:
    assert shown.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert [pair for pair in contrasts(shown) if pair[2] < pair[3]] == []
    shown.tab.emulate_media(color_scheme="dark")
    assert luminance(shown.style("body", "backgroundColor")) < 0.02
    assert [pair for pair in contrasts(shown) if pair[2] < pair[3]] == []
    shown.button("Light colours").click()
    shown.open()
    assert shown.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert shown.button("Dark colours").is_visible()


def test_a_phones_width_is_never_exceeded(browser: Any, server: FakeServer, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    shown = Shown(context, server.address).open()

    def width() -> tuple[int, int]:
        return tuple(shown.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]"))

    assert width() == (360, 360)
    shown.attach(picture(tmp_path / f"{'long' * 20}.png", (900, 300)), sound(tmp_path / "tone.wav"))
    assert width() == (360, 360)
    long = "w" * 300
    server.reply = Reply(
        [long, f"\n```\n{long}\n```\n"], {"modality": "audio+image", "path": "routed", "routing": [[0.5] * 4] * 96}
    )
    shown.question.fill(long)
    shown.button("Send").click()
    shown.wait()
    assert width() == (360, 360)
    server.reply = Refusal(400, long)
    shown.question.fill("again")
    shown.button("Send").click()
    shown.wait()
    assert width() == (360, 360)
    assert not shown.button("New conversation").is_visible()
    shown.button("Conversations").tap()
    shown.button("New conversation").wait_for()
    assert width() == (360, 360)
    shown.button("New conversation").tap()
    assert shown.turns.count() == 0
    shown.button("Settings").tap()
    box = shown.tab.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    assert shown.faults == []
    context.close()


def focused(shown: Shown) -> str:
    """Return the name of what has the focus, after checking that the focus can be seen."""
    name, visible = shown.tab.evaluate("""() => {
      const element = document.activeElement, style = getComputedStyle(element);
      const frame = element.id === "question" ? getComputedStyle(element.closest("form")).boxShadow : "none";
      const text = element.getAttribute("aria-label") || element.textContent.trim();
      return [text, (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) || frame !== "none"];
    }""")
    assert visible, f"the focus on {name!r} cannot be seen"
    return str(name)


def press_until(shown: Shown, key: str, wanted: str) -> None:
    """Press a key until the focus is on what is wanted."""
    for _ in range(30):
        if focused(shown).startswith(wanted):
            return
        shown.tab.keyboard.press(key)
    raise AssertionError(f"{wanted} cannot be reached by {key}")


def test_everything_can_be_done_by_keyboard(shown: Shown, server: FakeServer) -> None:
    keyboard = shown.tab.keyboard
    server.reply = Reply(["Blue."], {"modality": "image", "path": "routed", "routing": [[0.25, 0.75], [1.0, 0.0]]})
    keyboard.type("Which colour?")  # the field has the focus from the beginning
    keyboard.press("Shift+Enter")
    keyboard.type("Say why.")
    keyboard.press("Enter")
    shown.wait()
    assert server.asked[-1]["content"][-1]["text"] == "Which colour?\nSay why."
    press_until(shown, "Shift+Tab", "Routing weights")
    keyboard.press("ArrowRight")
    keyboard.press("ArrowRight")
    assert shown.answer.locator("output").inner_text() == "site 1: 1.00 · 0.00"
    press_until(shown, "Shift+Tab", "Routing: 2 experts")
    keyboard.press("Enter")
    assert not shown.answer.locator("table").is_visible()
    press_until(shown, "Shift+Tab", "Retry")
    keyboard.press("Enter")
    shown.wait()
    assert len(server.requests) == 2
    press_until(shown, "Shift+Tab", "New conversation")
    keyboard.press("Enter")
    assert shown.turns.count() == 0
    keyboard.type("In the new one")  # and has it again
    keyboard.press("Enter")
    shown.wait()
    press_until(shown, "Shift+Tab", "Settings")
    keyboard.press("Enter")
    assert shown.tab.get_by_role("dialog", name="Settings").is_visible()
    keyboard.press("Escape")
    assert focused(shown) == "Settings"
    for _ in itertools.takewhile(lambda _: focused(shown) != "Skip to your question", range(30)):
        keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    assert shown.tab.evaluate("document.activeElement.id") == "question"


def test_a_screen_reader_is_told_what_happens(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply(["Blue."], {"modality": "image", "path": "folded", "routing": [[1.0]]})
    shown.ask_and_wait("Which colour?")
    shown.tab.get_by_role("status").get_by_text("Answer by the image path: Blue.").wait_for()
    assert [shown.tab.get_by_role(role).count() for role in ("navigation", "main")] == [1, 1]
    names = shown.tab.locator("button:visible, input:visible, textarea:visible, select:visible").evaluate_all(
        """(all) => all.map((one) => one.getAttribute("aria-label") || one.textContent.trim()
          || [...(one.labels ?? [])].map((label) => label.textContent).join(""))"""
    )
    assert names and all(names)
    assert shown.tab.get_by_role("cell").all_text_contents() == ["1.00"]
    assert shown.tab.get_by_role("rowheader").all_text_contents() == ["expert 0"]
