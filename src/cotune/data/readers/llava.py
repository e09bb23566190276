"""The LLaVA format: conversations of humans and models, with `<image>` where a picture stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.records import Record, first_keys, read_records
from cotune.errors import nearest
from cotune.messages import Image, Message, Part, Role, Sample, Text

PLACEHOLDER = "<image>"
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
IMAGE_FIRST = "samples without an <image> placeholder: the image was put first"
IDS_REPEATED = "samples with a repeated id: #2, #3 ... was added"


def sniff(path: Path) -> bool:
    """Return whether the first record of the file holds `conversations`."""
    return "conversations" in first_keys(path)


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per conversation; images are relative to `media`, or to the folder of the file.

    Ids of this format often name the picture (in the 665k instructions of LLaVA-1.5 they repeat 250,000 times), so
    a repeated id is not refused: `#2`, `#3` ... makes it unique, and the count says how often.
    """
    root = path.parent if media is None else media
    times: dict[str, int] = {}
    for record in read_records(path, problems):
        sample = _sample(record, root)
        if not record.sound:
            continue
        times[sample.id] = times.get(sample.id, 0) + 1
        if times[sample.id] > 1:
            problems.count(IDS_REPEATED)
            sample = replace(sample, id=f"{sample.id}#{times[sample.id]}")
        yield sample


def _sample(record: Record, root: Path) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound."""
    names = record.fields.get("image")
    names = names if isinstance(names, list) else [] if names is None else [names]
    images = [record.image(name, root) for name in names]
    turns = [_turn(record, turn, f"conversations[{i}]") for i, turn in enumerate(record.objects("conversations"))]
    placeholders = sum(text.count(PLACEHOLDER) for role, text in turns if role == "user")
    first = next((index for index, (role, _) in enumerate(turns) if role == "user"), None)
    if images and not placeholders and first is not None:
        record.problems.count(IMAGE_FIRST)
        turns[first] = ("user", PLACEHOLDER * len(images) + turns[first][1])
    elif placeholders != len(images):
        record.wrong(
            f"{PLACEHOLDER} stands {placeholders} times in human turns, but images: {len(images)}; make them equal"
        )
    waiting = iter(images)
    messages = tuple(Message(role, _with_images(text, waiting)) for role, text in turns)
    return Sample(record.id, messages, record.origin, record.meta(("image", "conversations")))


def _turn(record: Record, turn: dict[str, Any], where: str) -> tuple[Role, str]:
    """Return who speaks in one turn and what is said."""
    speaker = record.text("from", turn, where=where)
    text = record.text("value", turn, where=where)
    role = ROLES.get(speaker)
    if role is None:
        record.wrong(f"{where}: '{speaker}' is no speaker of this format{nearest(speaker, list(ROLES))}")
        return "user", text
    if role != "user" and PLACEHOLDER in text:
        record.wrong(f"{where}: {PLACEHOLDER} in a turn of '{speaker}'; only a human turn can hold an image")
    return role, text


def _with_images(text: str, images: Iterator[Image]) -> tuple[Part, ...]:
    """Return the text with the next images in place of its placeholders.

    The line breaks that set a placeholder off from the text belong to it and go with it.
    """
    if PLACEHOLDER not in text:
        return (Text(text),)
    parts: list[Part] = []
    pieces = text.split(PLACEHOLDER)
    for index, piece in enumerate(pieces):
        if index > 0:
            parts += [image for image in [next(images, None)] if image is not None]
            piece = piece.lstrip("\n")
        if index < len(pieces) - 1:
            piece = piece.rstrip("\n")
        if piece:
            parts.append(Text(piece))
    return tuple(parts)


READER = Reader("llava", 'LLaVA: JSON or JSONL of {"image", "conversations": [{"from", "value"}]}', sniff, read)
