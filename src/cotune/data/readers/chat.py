"""The chat format of OpenAI and Hugging Face: `messages` with a role and text or typed content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.records import Record, first_keys, read_records
from cotune.errors import nearest
from cotune.messages import Image, Message, Part, Role, Sample, Text

ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
PART_TYPES = ("text", "image", "image_url")


def sniff(path: Path) -> bool:
    """Return whether the first record of the file holds `messages`."""
    return "messages" in first_keys(path)


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per conversation; images are relative to `media`, or to the folder of the file."""
    root = path.parent if media is None else media
    for record in read_records(path, problems):
        sample = _sample(record, root)
        if record.sound:
            yield sample


def _sample(record: Record, root: Path) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound.

    Image parts without a path take the next one of the record's own list `images`, as trl writes them.
    """
    listed = record.fields.get("images") or []
    images = [record.image(name, root) for name in (listed if isinstance(listed, list) else [listed])]
    waiting = iter(images)
    messages = [
        _message(record, message, root, waiting, f"messages[{i}]")
        for i, message in enumerate(record.objects("messages"))
    ]
    left = len(list(waiting))
    if left:
        record.wrong(f'{left} of {len(images)} `images` have no content part {{"type": "image"}}; say where they stand')
    return Sample(record.id, tuple(messages), record.origin, record.meta(("messages", "images")))


def _message(record: Record, message: dict[str, Any], root: Path, waiting: Iterator[Image], where: str) -> Message:
    """Return one message; keys beside role and content are counted."""
    name = record.text("role", message, where=where)
    role = ROLES.get(name)
    if role is None:
        record.wrong(f"{where}: role '{name}' cannot be learned from{nearest(name, list(ROLES))}")
        role = "user"
    for key in message.keys() - {"role", "content"}:
        if message[key] is not None and message[key] != []:
            record.problems.count(f"messages whose key '{key}' is not used")
    content = message.get("content")
    if not isinstance(content, list):
        return Message(role, (Text(record.text("content", message, where=where)),))
    parts = [_part(record, part, root, waiting, f"{where}.content[{i}]") for i, part in enumerate(content)]
    found = tuple(part for part in parts if part is not None)
    if role != "user" and any(isinstance(part, Image) for part in found):
        record.wrong(f"{where}: an image in a message of '{role}'; only a user's message can hold one")
    return Message(role, found)


def _part(record: Record, part: object, root: Path, waiting: Iterator[Image], where: str) -> Part | None:
    """Return one typed part of a message's content, or None with a problem noted."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        record.wrong(f'{where}: an object with a "type" is expected')
    elif kind == "text":
        return Text(record.text("text", part, where=where))
    elif kind in PART_TYPES:
        return _image(record, part, kind, root, waiting, where)
    else:
        record.wrong(f"{where}: content of type '{kind}' cannot be read{nearest(kind, PART_TYPES)}")
    return None


def _image(
    record: Record, part: dict[str, Any], kind: str, root: Path, waiting: Iterator[Image], where: str
) -> Image | None:
    """Return the image a part names by `image`, `path` or `image_url`, or else the next one of the record's list."""
    value = part.get("image_url" if kind == "image_url" else "image", part.get("path"))
    if isinstance(value, dict):
        value = value.get("url", value.get("path"))
    if value is not None:
        return record.image(value, root)
    image = next(waiting, None)
    if image is None:
        record.wrong(f'{where}: no file is named; write {{"type": "image", "path": "FILE"}}')
    return image


READER = Reader("chat", 'chat: JSON or JSONL of {"messages": [{"role", "content"}]}', sniff, read)
