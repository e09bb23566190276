"""The LLaVA and ShareGPT formats: conversations of humans and models, with `<image>` and `<audio>` where they stand.

LLaVA's data (Liu et al. 2023, arXiv 2304.08485: `llava_instruct_150k.json`) names its picture under `image`; ShareGPT
data, as other trainers extend them, name lists under `images` and `audios`, and the system message beside the turns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import first_keys, missing_keys, read_records
from cotune.data.readers.json_lines import large_json_lines
from cotune.data.readers.record import MediaType, Record
from cotune.data.readers.repeated_ids import IDS_REPEATED, numbered
from cotune.errors import nearest
from cotune.messages import MEDIA_OF_PART, Audio, Image, Message, Part, Role, Sample, Text

PLACEHOLDERS: dict[MediaType, str] = {Image: "<image>", Audio: "<audio>"}
ROLES: dict[str, Role] = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}
KEYS: dict[MediaType, tuple[str, str]] = {Image: ("image", "images"), Audio: ("audio", "audios")}
# What tells ShareGPT data from LLaVA's; both are read alike.
SHARE_GPT_KEYS = ("images", "audios", "system", "tools")
PUT_FIRST = {
    Image: "samples without an <image> placeholder: the image was put first",
    Audio: "samples without an <audio> placeholder: the sound was put first",
}
# Conversations about web pages name this tag, and data without sounds has always been read with it as plain text.
TAG_AS_TEXT = "samples with the words <audio> but no key `audio`: read as text"

Files = dict[MediaType, list[Image | Audio]]


def missing(path: Path) -> str:
    """Return what keeps the first record of the file from holding `conversations` as LLaVA has them."""
    other = [key for key in SHARE_GPT_KEYS if key in first_keys(path)]
    return missing_keys(path, "conversations") or (f"the first record has the key '{other[0]}'" if other else "")


def missing_share_gpt(path: Path) -> str:
    """Return what keeps the first record of the file from holding `conversations` and a key of ShareGPT's."""
    other = [key for key in SHARE_GPT_KEYS if key in first_keys(path)]
    return missing_keys(path, "conversations") or ("" if other else f"none of {', '.join(SHARE_GPT_KEYS)} beside them")


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per conversation; images and sounds are relative to `media`, or to the folder of the file.

    Ids of this format often name the picture (in the 665k instructions of LLaVA-1.5 they repeat 250,000 times), so
    a repeated id is not refused: `#2`, `#3` ... makes it unique, and the count says how often.
    """
    root = path.parent if media is None else media
    times: dict[str, int] = {}
    for record in read_records(path, problems):
        sample = sample_of(record, root)
        if not record.sound:
            continue
        times[sample.id] = times.get(sample.id, 0) + 1
        if times[sample.id] > 1:
            problems.count(IDS_REPEATED)
        yield numbered(sample, times[sample.id])


def sample_of(record: Record, root: Path) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound."""
    files: Files = {Image: _files(record, Image, root)}
    if any(record.fields.get(key) is not None for key in KEYS[Audio]):
        files[Audio] = _files(record, Audio, root)
    turns = [
        _turn(record, turn, files.keys(), f"conversations[{i}]")
        for i, turn in enumerate(record.objects("conversations"))
    ]
    if Audio not in files and any(PLACEHOLDERS[Audio] in text for _, text in turns):
        record.problems.count(TAG_AS_TEXT)
    _place(record, files, turns)
    waiting = {PLACEHOLDERS[kind]: iter(found) for kind, found in files.items()}
    messages = tuple(Message(role, _with_media(text, waiting)) for role, text in turns)
    system = record.optional_text("system")
    if system.strip():
        messages = (Message("system", (Text(system),)), *messages)
    used = (*(key for keys in KEYS.values() for key in keys), "conversations", "system")
    return Sample(record.id, messages, record.origin, record.meta(used))


def _files(record: Record, kind: MediaType, root: Path) -> list[Image | Audio]:
    """Return the files of a kind that the record names, under either spelling of its key."""
    return [part for key in KEYS[kind] for part in record.media(kind, key, root)]


def _place(record: Record, files: Files, turns: list[tuple[Role, str]]) -> None:
    """Hold every kind's files against its placeholders; where it has none, put them in front of the first question."""
    first = next((index for index, (role, _) in enumerate(turns) if role == "user"), None)
    put_first = ""
    for kind, found in files.items():
        placeholder, called = PLACEHOLDERS[kind], MEDIA_OF_PART[kind]
        standing = sum(text.count(placeholder) for role, text in turns if role == "user")
        if found and not standing and first is not None:
            record.problems.count(PUT_FIRST[kind])
            put_first += placeholder * len(found)
        elif standing != len(found):
            record.wrong(
                f"{placeholder} stands {standing} times in human turns, but {called} files: {len(found)}; "
                "make them equal"
            )
    if first is not None:
        turns[first] = ("user", put_first + turns[first][1])


def _turn(record: Record, turn: dict[str, Any], kinds: Collection[MediaType], where: str) -> tuple[Role, str]:
    """Return who speaks in one turn and what is said."""
    speaker = record.text("from", turn, where=where)
    text = record.text("value", turn, where=where)
    role = ROLES.get(speaker)
    if role is None:
        record.wrong(f"{where}: '{speaker}' is no speaker of this format{nearest(speaker, list(ROLES))}")
        return "user", text
    for kind in kinds:
        if role != "user" and PLACEHOLDERS[kind] in text:
            record.wrong(
                f"{where}: {PLACEHOLDERS[kind]} in a turn of '{speaker}'; "
                f"only a human turn can hold {MEDIA_OF_PART[kind]}"
            )
    return role, text


def _with_media(text: str, waiting: Mapping[str, Iterator[Image | Audio]]) -> tuple[Part, ...]:
    """Return the text with the next file of its kind in place of each placeholder.

    The line breaks that set a placeholder off from the text belong to it and go with it.
    """
    # Texts and placeholders take turns: text at the even places, a placeholder at the odd ones.
    pieces = re.split(f"({'|'.join(waiting)})", text)
    if len(pieces) == 1:
        return (Text(text),)
    parts: list[Part] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            parts += [found for found in [next(waiting[piece], None)] if found is not None]
            continue
        piece = piece.lstrip("\n") if index > 0 else piece
        piece = piece.rstrip("\n") if index < len(pieces) - 1 else piece
        if piece:
            parts.append(Text(piece))
    return tuple(parts)


READER = Reader(
    "llava",
    'LLaVA: JSON or JSONL of {"image", "audio", "conversations": [{"from", "value"}]}',
    missing,
    read,
    sample=sample_of,
    rows=large_json_lines,
    ids_may_repeat=True,
)
SHARE_GPT_READER = replace(
    READER,
    name="sharegpt",
    describe='ShareGPT: JSON or JSONL of {"images", "system", "conversations": [{"from", "value"}]}',
    missing=missing_share_gpt,
)
