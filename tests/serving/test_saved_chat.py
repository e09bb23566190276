"""Saved conversations: read back by the data reader as they were, and never written over."""

from pathlib import Path

import pytest

from cotune.data.sources import read_source
from cotune.errors import RunFolderError
from cotune.messages import Audio, Image, Message, Text
from cotune.serving.saved_chat import as_markdown, save


@pytest.fixture
def conversation(tmp_path: Path) -> list[Message]:
    for name in ("a b.png", "c.wav"):
        (tmp_path / name).write_bytes(b"x")
    return [
        Message("user", (Image(tmp_path / "a b.png"), Text("what is “this”?\n"))),
        Message("assistant", (Text("a [square]"),)),
        Message("user", (Audio(tmp_path / "c.wav"), Text("and this?"))),
        Message("assistant", (Text("a dog"),)),
    ]


def test_saved_lines_are_read_as_the_same_conversations(tmp_path: Path, conversation: list[Message]) -> None:
    file = tmp_path / "kept" / "talks.jsonl"
    save(conversation, file)
    save(conversation[:2], file)
    first, second = read_source(file, media=tmp_path).samples
    assert list(first.messages) == conversation
    assert list(second.messages) == conversation[:2]


def test_a_file_without_a_last_line_break_is_gone_on_from(tmp_path: Path, conversation: list[Message]) -> None:
    file = tmp_path / "talks.jsonl"
    save(conversation[2:], file)
    file.write_text(file.read_text().rstrip("\n"))
    save(conversation[:2], file)
    assert [sample.modality for sample in read_source(file, media=tmp_path).samples] == ["audio", "image"]


def test_markdown_shows_who_said_what_with_the_picture(tmp_path: Path, conversation: list[Message]) -> None:
    text = as_markdown(conversation)
    assert f"**user:** ![image](<{tmp_path / 'a b.png'}>)" in text
    assert "**assistant:** a [square]" in text


@pytest.mark.parametrize("name", ["talk.txt", "talk", ""])
def test_another_kind_of_file_is_refused_with_what_to_name(
    tmp_path: Path, conversation: list[Message], name: str
) -> None:
    with pytest.raises(RunFolderError, match=r"\.jsonl .* or \.md"):
        save(conversation, tmp_path / name)


def test_a_markdown_file_is_not_written_over(tmp_path: Path, conversation: list[Message]) -> None:
    file = tmp_path / "talk.md"
    save(conversation, file)
    with pytest.raises(RunFolderError, match="exists already"):
        save(conversation[:2], file)
    assert file.read_text() == as_markdown(conversation)


def test_an_empty_conversation_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nothing to save"):
        save([], tmp_path / "talk.md")
