"""Using the page: stop, retry, edit, copy, the list of conversations, colours, a phone, and hands that have no mouse."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.browser import Shown
from tests.serving.fake_server import FakeServer, Refusal, Reply
from tests.serving.page_media import picture, sent_media, sound

ENDLESS = Reply(["word "] * 2000, seconds=0.02)


def texts(server: FakeServer) -> list[str]:
    """Return what the last request said, turn by turn, without its pictures and sounds."""
    contents = [message["content"] for message in server.asked]
    return [content if isinstance(content, str) else content[-1]["text"] for content in contents]


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_ends_the_answer_and_the_servers_work(shown: Shown, server: FakeServer, way: str) -> None:
    server.reply = ENDLESS
    shown.ask("Go on for ever")
    shown.answer.get_by_text("word word").wait_for()
    if way == "button":
        shown.button("Stop").click()
    else:
        shown.tab.keyboard.press("Escape")
    said = shown.wait()
    assert server.left.wait(5)
    assert shown.answer.locator(".remark").inner_text() == "Stopped."
    server.reply = Reply(["Yes."])
    shown.ask_and_wait("Did you stop?")
    assert texts(server)[0] == "Go on for ever" and texts(server)[1].strip() == said.strip()


def test_retry_asks_the_same_again(shown: Shown, server: FakeServer) -> None:
    shown.ask_and_wait("Which colour?")
    server.reply = Reply(["Green, rather."])
    shown.button("Retry").click()
    assert shown.wait() == "Green, rather."
    assert server.requests[0] == server.requests[1]
    assert shown.turns.count() == 2


def test_edit_replaces_a_question_and_all_that_came_after_it(shown: Shown, server: FakeServer) -> None:
    for text in ("one", "two", "three"):
        shown.ask_and_wait(text)
    shown.button("Edit question").nth(1).click()
    assert shown.question.input_value() == "two"
    shown.ask_and_wait("two, but better")
    assert texts(server) == ["one", "It is blue.", "two, but better"]
    assert shown.turns.count() == 4


def test_an_edit_can_be_given_up(shown: Shown, server: FakeServer) -> None:
    shown.ask_and_wait("one")
    shown.button("Edit question").click()
    shown.tab.keyboard.press("Escape")
    assert shown.question.input_value() == ""
    shown.ask_and_wait("two")
    assert texts(server) == ["one", "It is blue.", "two"]


def test_copy_takes_the_text_as_the_model_wrote_it(shown: Shown, server: FakeServer) -> None:
    shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
    server.reply = Reply(["Use `a < b`:\n", "```\ncode\n```"])
    shown.ask_and_wait("How?")
    shown.button("Copy answer").click()
    shown.tab.get_by_role("status").get_by_text("Copied").wait_for()
    assert shown.tab.evaluate("navigator.clipboard.readText()") == "Use `a < b`:\n```\ncode\n```"


def test_conversations_survive_a_reload(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply(["Blue."], {"modality": "text", "path": "routed", "routing": [[0.25, 0.75]]})
    shown.ask_and_wait("About the sky")
    shown.button("New conversation").click()
    assert shown.turns.count() == 0
    shown.ask_and_wait("About the sea")
    shown.open()
    assert shown.tab.locator("#conversations .title").all_inner_texts() == ["About the sea", "About the sky"]
    assert shown.tab.get_by_role("heading", level=1).inner_text() == "About the sea"
    shown.tab.locator("#conversations .open", has_text="About the sky").click()
    assert shown.answer.locator(".said").inner_text() == "Blue."
    assert shown.answer.locator(".heat td").all_text_contents() == ["0.25", "0.75"]
    shown.ask_and_wait("And at night?")
    assert texts(server) == ["About the sky", "Blue.", "And at night?"]


def test_pictures_survive_a_reload(shown: Shown, server: FakeServer, tmp_path: Any) -> None:
    file = picture(tmp_path / "kept.png")
    shown.attach(file)
    shown.ask_and_wait("What is it?")
    shown.open().button("Retry").click()
    shown.wait()
    assert sent_media(server) == [file.read_bytes()]


def test_an_answer_cut_off_by_a_reload_keeps_what_had_come(shown: Shown, server: FakeServer) -> None:
    server.reply = ENDLESS
    shown.ask("Go on")
    shown.answer.get_by_text("word word word").wait_for()
    shown.tab.wait_for_timeout(1300)  # it is kept once a second
    shown.open()
    assert shown.answer.locator(".said").inner_text().startswith("word word")
    assert shown.answer.locator(".remark").inner_text() == "Stopped."


def test_a_conversation_is_deleted_only_when_one_is_sure(shown: Shown, server: FakeServer) -> None:
    shown.ask_and_wait("About the sky")
    for choice, left in (("Keep", 1), ("Delete", 0)):
        shown.button("Delete conversation About the sky").click()
        shown.tab.get_by_role("alertdialog").get_by_role("button", name=choice, exact=True).click()
        assert shown.tab.locator("#conversations li").count() == left
    shown.tab.get_by_role("status").get_by_text("Deleted").wait_for()
    shown.open()
    assert shown.tab.locator("#conversations li").count() == 0


def test_an_answer_goes_on_while_another_conversation_is_open(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply(["word "] * 60, seconds=0.02)
    shown.ask("Slowly")
    shown.button("New conversation").click()
    assert shown.turns.count() == 0
    shown.button("Send").wait_for()
    assert shown.turns.count() == 0  # it does not show up in the wrong place
    shown.tab.locator("#conversations .open").click()
    assert shown.answer.locator(".said").inner_text().split() == ["word"] * 60


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrasts(shown: Shown) -> Iterator[tuple[str, str, float, float]]:
    """Yield pairs of colours with their contrast and what it must be: text 4.5, borders of controls 3 (WCAG 2.2 AA)."""
    probe = """(name) => { const element = document.createElement("i"); element.style.color = `var(--${name})`;
      document.body.append(element); const colour = getComputedStyle(element).color; element.remove(); return colour; }"""
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


def test_a_phones_width_is_never_exceeded(browser: Any, server: FakeServer, tmp_path: Any) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    shown = Shown(context, server).open()

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
      const frame = element.id === "question" ? getComputedStyle(document.getElementById("composer")).boxShadow : "none";
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
    assert texts(server) == ["Which colour?\nSay why."]
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
    assert [shown.tab.get_by_role(role).count() for role in ("navigation", "main", "banner")] == [1, 1, 0]
    names = shown.tab.locator("button:visible, input:visible, textarea:visible, select:visible").evaluate_all(
        """(all) => all.map((one) => one.getAttribute("aria-label") || one.textContent.trim()
          || [...(one.labels ?? [])].map((label) => label.textContent).join(""))"""
    )
    assert names and all(names)
    assert shown.tab.get_by_role("cell").all_text_contents() == ["1.00"]
    assert shown.tab.get_by_role("rowheader").all_text_contents() == ["expert 0"]
