"""Using the page: stop, retry, edit, copy, and the list of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.page.browser import Shown
from tests.serving.page.fake_server import FakeServer, Reply
from tests.serving.page.media import picture, sent_media

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


def test_pictures_survive_a_reload(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
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
    shown.wait_until_kept("word word")
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
