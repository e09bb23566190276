"""The chat format of OpenAI and Hugging Face: `messages` with a role and text or typed content.

Typed parts are those of OpenAI's chat completions (`image_url` with a URL or a `data:` URL, `input_audio` with base64
data and a format) and of Hugging Face's chat templates (`image` and `audio` with a path or URL, or bare, with the files
in the record's lists `images` and `audios`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from cotune.data.media_store import StoreError, keep_base64
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import missing_keys, read_records
from cotune.data.readers.json_lines import large_json_lines
from cotune.data.readers.record import MediaType, Record
from cotune.errors import nearest
from cotune.messages import MEDIA_OF_PART, Audio, Image, Message, Part, Role, Sample, Text

ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
# The types of content parts that hold media: Hugging Face's plain names, OpenAI's others. The type is the key of the
# file too.
MEDIA_TYPES: dict[str, MediaType] = {
    "image": Image,
    "image_url": Image,
    "audio": Audio,
    "audio_url": Audio,
    "input_audio": Audio,
}
PART_TYPES = ("text", *MEDIA_TYPES)
# The record's own lists, for parts that name no file, as trl writes them.
LISTS: dict[MediaType, str] = {Image: "images", Audio: "audios"}

Waiting = Mapping[MediaType, Iterator[Image | Audio]]


def missing(path: Path) -> str:
    """Return what keeps the first record of the file from holding `messages`."""
    return missing_keys(path, "messages")


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per conversation; images and sounds are relative to `media`, or to the folder of the file."""
    root = path.parent if media is None else media
    for record in read_records(path, problems):
        sample = sample_of(record, root)
        if record.sound:
            yield sample


def sample_of(record: Record, root: Path) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound.

    Parts without a path take the next file of the record's own list, `images` or `audios`.
    """
    listed: dict[MediaType, list[Image | Audio]] = {
        kind: [*record.media(kind, key, root)] for kind, key in LISTS.items()
    }
    waiting = {kind: iter(files) for kind, files in listed.items()}
    messages = [
        _message(record, message, root, waiting, f"messages[{i}]")
        for i, message in enumerate(record.objects("messages"))
    ]
    for kind, files in listed.items():
        left = len(list(waiting[kind]))
        if left:
            part = f'{{"type": "{MEDIA_OF_PART[kind]}"}}'
            record.wrong(f"{left} of {len(files)} `{LISTS[kind]}` have no content part {part}; say where they stand")
    return Sample(record.id, tuple(messages), record.origin, record.meta(("messages", *LISTS.values())))


def _message(record: Record, message: dict[str, Any], root: Path, waiting: Waiting, where: str) -> Message:
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
    kinds = sorted({MEDIA_OF_PART[type(part)] for part in found if not isinstance(part, Text)})
    if role != "user" and kinds:
        record.wrong(f"{where}: {' and '.join(kinds)} in a message of '{role}'; only a user's message can hold media")
    return Message(role, found)


def _part(record: Record, part: object, root: Path, waiting: Waiting, where: str) -> Part | None:
    """Return one typed part of a message's content, or None with a problem noted."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        record.wrong(f'{where}: an object with a "type" is expected')
    elif kind == "text":
        return Text(record.text("text", part, where=where))
    elif kind in MEDIA_TYPES:
        return _medium(record, part, kind, root, waiting, where)
    else:
        record.wrong(f"{where}: content of type '{kind}' cannot be read{nearest(kind, PART_TYPES)}")
    return None


def _medium(
    record: Record, part: dict[str, Any], kind: str, root: Path, waiting: Waiting, where: str
) -> Image | Audio | None:
    """Return the image or sound a part names under its type, `path` or `url`, or else the next of the record's list."""
    medium = MEDIA_TYPES[kind]
    value = part.get(kind, part.get("path", part.get("url")))
    inside, form = part.get("base64"), ""
    if isinstance(value, dict):
        inside = value.get("data") if inside is None else inside
        form = str(value.get("format") or "")
        value = value.get("url", value.get("path"))
    if inside is not None:
        return _from_base64(record, medium, inside, form, where)
    if value is not None:
        return record.medium(medium, value, root)
    found = next(waiting[medium], None)
    if found is None:
        record.wrong(f'{where}: no file is named; write {{"type": "{MEDIA_OF_PART[medium]}", "path": "FILE"}}')
    return found


def _from_base64(record: Record, medium: MediaType, text: object, form: str, where: str) -> Image | Audio | None:
    """Return the image or sound that stands in the record itself, kept as a file of the cache."""
    if not isinstance(text, str):
        record.wrong(f"{where}: the data of a part is base64 text")
        return None
    try:
        return medium(keep_base64(text, f".{form}" if form.isalnum() else ""))
    except StoreError as error:
        record.wrong(f"{where}: the data of this part: {error}")
        return None


READER = Reader(
    "chat",
    'chat: JSON or JSONL of {"messages": [{"role", "content"}]}',
    missing,
    read,
    sample=sample_of,
    rows=large_json_lines,
)
