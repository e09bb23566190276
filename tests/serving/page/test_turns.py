"""Turns on the page, in a real browser: what is sent of text, pictures and sounds, and what is shown of an answer."""

from __future__ import annotations

import base64
import io
import re
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.page.browser import Shown
from tests.serving.page.fake_server import FakeServer, Reply
from tests.serving.page.media import picture, sent_media, sound

DROP = """([selector, type, files]) => {
  const data = new DataTransfer();
  for (const [name, kind, text] of files) {
    data.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name, { type: kind }));
  }
  const event = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(selector).dispatchEvent(event);
}"""


def test_a_text_turn_is_streamed_and_the_next_one_knows_it(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply(["Blue, ", "I ", "think."], {"modality": "text", "path": "base", "routing": [[0.0]] * 3})
    assert shown.ask_and_wait("What colour is the sky?") == "Blue, I think."
    assert shown.answer.locator(".path").inner_text() == "text path\n· base model"
    assert shown.answer.locator(".heat").count() == 0  # the base model routes nothing
    assert "3 tokens" in shown.answer.locator(".costs").inner_text()
    assert server.requests[-1]["model"] == "quickstart" and server.requests[-1]["stream"] is True
    shown.ask_and_wait("And at night?")
    assert server.asked == [
        {"role": "user", "content": [{"type": "text", "text": "What colour is the sky?"}]},
        {"role": "assistant", "content": "Blue, I think."},
        {"role": "user", "content": [{"type": "text", "text": "And at night?"}]},
    ]


def test_an_answer_is_shown_while_it_comes(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply(["first ", *["more "] * 400], seconds=0.02)
    shown.ask("Tell me everything")
    shown.answer.get_by_text("first more").wait_for()
    assert shown.answer.get_attribute("aria-busy") == "true"
    shown.button("Stop").click()


def test_a_picture_is_sent_as_it_is_before_the_text(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    server.reply = Reply(["Noise."], {"modality": "image", "path": "folded", "routing": [[0.0, 1.0]] * 4})
    file = picture(tmp_path / "noise.png")
    shown.attach(file)
    shown.ask_and_wait("What is it?")
    assert [part["type"] for part in server.asked[-1]["content"]] == ["image_url", "text"]
    assert server.asked[-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert sent_media(server) == [file.read_bytes()]
    assert shown.answer.locator(".path").inner_text() == "image path\n· folded"
    shown_picture = shown.tab.get_by_role("img", name="Attached image noise.png")
    assert shown_picture.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [40, 30]


def test_a_large_picture_is_shrunk_and_says_so(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    shown.attach(picture(tmp_path / "large.jpg", (3000, 1500)))
    assert shown.tab.get_by_text("shrunk from 3000 × 1500 to 2048 × 1024").count() == 1
    shown.ask_and_wait("What is it?")
    with Image.open(io.BytesIO(sent_media(server)[0])) as sent:
        assert (sent.size, sent.format) == ((2048, 1024), "JPEG")


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_comes_in_by_the_clipboard_and_by_dragging(
    shown: Shown, server: FakeServer, tmp_path: Path, way: str
) -> None:
    content = picture(tmp_path / "in.png").read_bytes()
    if way == "drop":
        shown.tab.evaluate(DROP, ["main", "dragover", [["in.png", "image/png", ""]]])
        assert shown.tab.get_by_text("Drop images or sounds here").is_visible()
    shown.tab.evaluate(DROP, ["main", way, [["in.png", "image/png", base64.b64encode(content).decode()]]])
    shown.button("Remove in.png").wait_for()
    assert not shown.tab.get_by_text("Drop images or sounds here").is_visible()
    shown.button("Send").click()
    shown.wait()
    assert sent_media(server) == [content]
    assert len(server.asked[-1]["content"]) == 1  # no empty text beside it


def test_a_wav_file_is_sent_as_it_is(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    server.reply = Reply(["A tone."], {"modality": "audio", "path": "routed", "routing": [[0.5, 0.5]]})
    file = sound(tmp_path / "tone.wav")
    shown.attach(file)
    assert shown.tab.get_by_text("0.5 s", exact=True).count() == 1
    shown.ask_and_wait("What do you hear?")
    assert server.asked[-1]["content"][0]["input_audio"]["format"] == "wav"
    assert sent_media(server) == [file.read_bytes()]
    assert shown.answer.locator(".path").inner_text() == "audio path\n· routed"


def test_another_sound_becomes_wav_with_the_same_samples(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    rate = 48000
    left, right = np.sin(np.arange(rate // 4) / 20) * 0.5, np.cos(np.arange(rate // 4) / 35) * 0.25
    soundfile.write(tmp_path / "two.flac", np.stack([left, right], axis=1), rate)
    shown.attach(tmp_path / "two.flac")
    shown.ask_and_wait("What do you hear?")
    samples, found = soundfile.read(io.BytesIO(sent_media(server)[0]))
    assert found == rate and samples.ndim == 1
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-4)


def test_a_recording_is_one_channel_of_sound_that_is_not_silent(shown: Shown, server: FakeServer) -> None:
    shown.button("Record a sound").click()
    # The browser's microphone beeps once a second; how soon a busy machine shows that one has passed is its own affair.
    shown.tab.locator("#record .clock", has_text=re.compile(r"^0:(?!00)\d\d$")).wait_for()
    shown.button("Stop recording").click()
    shown.tab.locator("#chips li").get_by_text("recording").wait_for()
    shown.ask_and_wait("What do you hear?")
    with wave.open(io.BytesIO(sent_media(server)[0])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 48000)
        assert 0.5 < file.getnframes() / 48000 < 60
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    assert np.abs(samples).max() > 1000


def test_what_cannot_be_used_is_left_out_and_named(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    shown.tab.locator("#files").set_input_files([str(path) for path in sorted(tmp_path.iterdir()) if path.is_file()])
    notice = shown.tab.get_by_role("alert")
    notice.wait_for()
    for told in ("notes.txt is neither", "broken.png is no image", "broken.wav is no sound"):
        assert told in notice.inner_text()
    assert shown.tab.locator("#chips li").count() == 0


def test_a_model_without_ears_is_offered_no_sounds(shown: Shown, server: FakeServer, tmp_path: Path) -> None:
    server.models = [{"id": "sees", "object": "model", "cotune": {"media": ["image"]}}]
    shown.open()
    assert shown.button("Record a sound").is_disabled()
    shown.tab.locator("#files").set_input_files(str(sound(tmp_path / "tone.wav")))
    shown.tab.get_by_text("tone.wav was left out: this model reads no audio.").wait_for()
    shown.attach(picture(tmp_path / "fine.png"))


def test_the_heat_map_has_the_weights_as_numbers_and_as_colours(shown: Shown, server: FakeServer) -> None:
    routing = [[0.0, 1.0, 0.25], [1.0, 0.0, 0.5], [0.3, 0.3, 0.75]]
    server.reply = Reply(["Yes."], {"modality": "audio+image", "path": "routed", "routing": routing})
    shown.ask_and_wait("Is it?")
    assert shown.answer.locator(".path svg").count() == 2  # one picture for each kind
    rows = shown.answer.locator(".heat tbody tr")
    numbers = [[float(cell) for cell in rows.nth(expert).locator("td").all_text_contents()] for expert in range(3)]
    assert numbers == np.array(routing).T.tolist()
    colours = """(cells) => cells.map((cell) => {
      const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      pen.fillStyle = getComputedStyle(cell).backgroundColor;
      pen.fillRect(0, 0, 1, 1);
      return pen.getImageData(0, 0, 1, 1).data[0];
    })"""
    reds = np.array(shown.answer.locator(".heat tbody td").evaluate_all(colours))
    order = np.argsort(np.array(routing).T.ravel())
    assert reds[order[0]] == 0xE9 and reds[order[-1]] == 0x07  # the two ends of the scale
    assert (np.diff(reds[order]) <= 0).all() and len(set(reds.tolist())) == 6


def test_code_and_paragraphs_are_shown_as_such(shown: Shown, server: FakeServer) -> None:
    server.reply = Reply(["Call `run`:\n\n``", "`python\nif a < b:\n    run()\n```\nDone."])
    shown.ask_and_wait("How?")
    assert shown.answer.locator("pre code").text_content() == "if a < b:\n    run()"
    assert shown.answer.locator("p code").text_content() == "run"
    assert shown.answer.locator(".said > *").evaluate_all("(all) => all.map((one) => one.tagName)") == ["P", "PRE", "P"]


def test_settings_are_sent_as_numbers_and_kept(shown: Shown, server: FakeServer) -> None:
    shown.button("Settings").click()
    for name, value in {"Most tokens": "12", "Temperature": "0.7", "Seed": "3", "System prompt": "Be brief."}.items():
        shown.tab.get_by_label(name).fill(value)
    shown.button("Done").click()
    shown.open().ask_and_wait("Hello")
    request = server.requests[-1]
    assert (request["max_tokens"], request["temperature"], request["seed"]) == (12, 0.7, 3)
    assert "top_p" not in request
    assert server.asked[0] == {"role": "system", "content": "Be brief."}
