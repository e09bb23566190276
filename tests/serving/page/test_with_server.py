"""The page and the real server together: what one sends, the other understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.serving.live_server import Live
from tests.serving.page.browser import Shown
from tests.serving.page.media import picture, sound


def test_a_conversation_with_the_real_server(browser: Any, live: Live, tmp_path: Path) -> None:
    context = browser.new_context()
    shown = Shown(context, live.url).open()
    shown.button("Settings").click()
    shown.tab.get_by_label("Most tokens").fill("4")
    shown.button("Done").click()
    paths = []
    for files in ([], [picture(tmp_path / "seen.png")], [sound(tmp_path / "heard.wav")]):
        shown.attach(*files)
        shown.ask_and_wait("what is it?")
        assert shown.answer.locator(".failure").all_inner_texts() == []
        assert "4 tokens" in shown.answer.locator(".costs").inner_text()
        paths.append(shown.answer.locator(".path").inner_text().split("\n")[0])
    assert paths == ["text path", "image path", "audio+image path"]
    way = live.engine.ways["audio+image"]
    numbers = shown.answer.locator(".heat tbody td").all_text_contents()
    assert numbers == [f"{site[expert]:.2f}" for expert in range(len(way.routing[0])) for site in way.routing]
    shown.button("Settings").click()
    shown.tab.get_by_label("Most tokens").fill("1000000")
    shown.button("Done").click()
    shown.ask_and_wait("and now?")
    assert "max_tokens" in shown.answer.locator(".failure").inner_text()
    assert shown.faults == []
    context.close()
