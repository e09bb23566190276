"""The terminal chat: streamed answers, pictures, mistakes that are said and not fatal."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cotune.data.sources import read_source
from cotune.errors import DataError, ModelError
from cotune.messages import Image, Message, Text
from cotune.model.loading import build_model
from cotune.serving.chat import Chat
from cotune.serving.terminal import answer_once, talk
from tests.tiny import tiny_recipe


@pytest.fixture
def chat(root: Path) -> Chat:
    return Chat(build_model(tiny_recipe(root)).eval(), max_new_tokens=4)


@pytest.fixture
def picture(root: Path) -> Path:
    return root / "train" / "images" / "0.png"


def converse(chat: Chat, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    output = StringIO()
    console = Console(file=output, width=200)
    waiting = iter(lines)

    def typed(*_: object, **__: object) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(console, "input", typed)
    talk(chat, console)
    return output.getvalue()


def test_the_modality_shifts_with_a_picture_and_back_with_a_reset(chat: Chat, picture: Path) -> None:
    "".join(chat.ask("hello"))
    assert chat.modality == "text"
    chat.show(Image(picture))
    "".join(chat.ask("what is it?"))
    assert chat.modality == "image"
    "".join(chat.ask("and now?"))
    assert chat.modality == "image"
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 3
    chat.reset()
    assert chat.modality == "text"


def test_the_picture_changes_the_answer_and_text_alone_is_the_base_model(chat: Chat, picture: Path) -> None:
    text = "".join(chat.ask("what color is the shape?"))
    assert chat.model.adapters is not None
    for adapter in chat.model.adapters.site_adapters:
        adapter.up.data.normal_()
    chat.reset()
    assert "".join(chat.ask("what color is the shape?")) == text
    chat.reset()
    chat.show(Image(picture))
    assert "".join(chat.ask("what color is the shape?")) != text


def test_streamed_pieces_join_to_the_answer_kept_in_the_conversation(chat: Chat) -> None:
    pieces = list(chat.ask("hello"))
    assert "".join(pieces).strip() == chat.messages[-1].text


def test_an_unreadable_picture_is_an_error_before_the_question(chat: Chat, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad\.png"):
        chat.show(Image(bad))
    assert chat.waiting == []


def test_a_model_without_an_encoder_says_so(chat: Chat, picture: Path) -> None:
    del chat._caches["image"]
    with pytest.raises(ModelError, match="without an image encoder"):
        chat.show(Image(picture))


def test_a_conversation_survives_mistakes(chat: Chat, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["/image /nowhere.png", "/dance", "", f"/image {picture}", "hi", "/quit", "never"]
    said = converse(chat, lines, monkeypatch)
    assert "/nowhere.png" in said
    assert "no command /dance" in said
    assert "answered by the image path\n" in said
    assert len(chat.messages) == 2


def test_the_line_below_an_answer_says_when_it_was_the_base_model(
    chat: Chat, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = converse(chat, ["hi", f"/image {picture}", "and now?"], monkeypatch)
    assert "answered by the text path: the base model itself\n" in said
    assert "answered by the image path\n" in said


def test_a_model_tuned_without_adapters_is_not_called_the_base_model(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = Chat(build_model(tiny_recipe(root, "components.llm.tune=lora")).eval(), max_new_tokens=4)
    assert "answered by the text path\n" in converse(tuned, ["hi"], monkeypatch)


def test_a_conversation_is_printed_and_saved(
    chat: Chat, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "[talk].jsonl"
    said = converse(
        chat,
        [f"/save {file}", f"/image {picture}", "hi [there]", f"/save {file}", "/save", "/image", "/history"],
        monkeypatch,
    )
    assert "nothing to save" in said and f"saved: {file}" in said
    assert "name a file: /save FILE" in said and "name a file: /image FILE" in said
    assert said.index(f"(image {picture})") < said.rindex("> hi [there]")
    (sample,) = read_source(file, media=Path(picture.anchor)).samples
    assert list(sample.messages) == chat.messages


def test_what_was_typed_comes_back_in_the_next_conversation(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readline = pytest.importorskip("readline")
    readline.clear_history()
    readline.add_history("typed before")
    converse(chat, [], monkeypatch)
    readline.clear_history()
    converse(chat, [], monkeypatch)
    assert readline.get_history_item(readline.get_current_history_length()) == "typed before"
    readline.clear_history()


def test_the_end_of_input_ends_the_conversation(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "/reset" in converse(chat, [], monkeypatch)


def test_one_answer_is_printed_without_markup(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chat, "ask", lambda self, question: iter(["[red]", "x[/red]"]))
    output = StringIO()
    answer_once(chat, Console(file=output), "?")
    assert output.getvalue() == "[red]x[/red]\n"


def computed_positions(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of positions of every call of the language model."""
    widths: list[int] = []
    body = chat.model.llm.model
    forward = body.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        widths.append(kwargs["inputs_embeds"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(body, "forward", counting)
    return widths


def test_what_was_read_is_not_read_again_and_a_new_medium_rebuilds(
    chat: Chat, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat.model.adapters is not None
    for adapter in chat.model.adapters.site_adapters:
        adapter.up.data.normal_(0, 0.3)
    widths = computed_positions(chat, monkeypatch)
    read = []
    turns: list[str | Path] = ["hello", "and you?", picture, "what is it?", "really?", picture, "the same?"]
    for turn in turns:
        if isinstance(turn, Path):
            chat.show(Image(turn))
            continue
        alone = Chat(chat.model, max_new_tokens=4)
        alone.messages, alone.waiting = list(chat.messages), list(chat.waiting)
        length = len(chat.model.template.prompt([*chat.messages, Message("user", (*chat.waiting, Text(turn)))]))
        widths.clear()
        answer = "".join(chat.ask(turn))
        read.append(widths[0] / length)
        assert answer == "".join(alone.ask(turn))
    new, again = 1.0, 0.9
    assert [share == new for share in read] == [True, False, True, False, False]
    assert all(share < again for share in read if share != new)


def test_an_answer_broken_off_leaves_nothing_half_computed(chat: Chat) -> None:
    "".join(chat.ask("hello"))
    stopped = chat.ask("go on")
    next(stopped)
    stopped.close()
    assert chat.kept.cache is None and len(chat.messages) == 2
    fresh = Chat(chat.model, max_new_tokens=4)
    fresh.messages = list(chat.messages)
    assert "".join(chat.ask("go on")) == "".join(fresh.ask("go on"))
