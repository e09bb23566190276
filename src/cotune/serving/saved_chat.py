"""Conversations kept in files: a line of a data file that cotune reads and can learn from, or Markdown to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cotune.errors import RunFolderError
from cotune.messages import MEDIA_OF_PART, Message, Part, Text
from cotune.whole_file import write_whole


def as_record(messages: Sequence[Message]) -> dict[str, Any]:
    """Return a conversation in the format `chat` (`docs/data.md`); media are named by their absolute paths."""
    return {"messages": [{"role": turn.role, "content": [_content(part) for part in turn.parts]} for turn in messages]}


def as_markdown(messages: Sequence[Message]) -> str:
    """Return a conversation to read: who speaks in bold, pictures shown, sounds linked."""
    return "\n\n".join(_turn(turn) for turn in messages) + "\n"


def save(messages: Sequence[Message], file: Path) -> None:
    """Write a conversation: one more line of a `.jsonl` file, or a new `.md` file.

    Raises:
        RunFolderError: for another kind of file, an empty conversation, a Markdown file that exists, or a failed write.
    """
    if not messages:
        raise RunFolderError("there is nothing to save yet: ask something first")
    write = _WRITERS.get(file.suffix.lower())
    if write is None:
        raise RunFolderError(f"{file}: name a file that ends in .jsonl (to learn from) or .md (to read)")
    write(messages, file)


def _append(messages: Sequence[Message], file: Path) -> None:
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    between = "\n" if before and not before.endswith("\n") else ""
    line = json.dumps(as_record(messages), ensure_ascii=False)
    write_whole(file, f"{before}{between}{line}\n")


def _write_markdown(messages: Sequence[Message], file: Path) -> None:
    if file.exists():
        raise RunFolderError(f"{file} exists already; choose another name")
    write_whole(file, as_markdown(messages))


_WRITERS: Final[dict[str, Callable[[Sequence[Message], Path], None]]] = {".jsonl": _append, ".md": _write_markdown}


def _content(part: Part) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": MEDIA_OF_PART[type(part)], "path": str(part.path.absolute())}


def _turn(turn: Message) -> str:
    shown = [
        part.text if isinstance(part, Text) else f"![{MEDIA_OF_PART[type(part)]}](<{part.path.absolute()}>)\n\n"
        for part in turn.parts
    ]
    return f"**{turn.role}:** {''.join(shown)}"
