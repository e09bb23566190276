"""Rows of tables and archives: each is read by the columns it has, its pictures and sounds kept as files.

| columns | read as |
|---|---|
| `messages`, `conversations`, or `instruction` and `output` | the formats chat, LLaVA and Alpaca |
| `question` and `answer` (`answers`, `label` ...), perhaps `choices` | a question, answered in words or by letter |
| `caption` (`captions`, `text`, `txt`, `sentence` ...) and a picture or sound | a caption, all of them its references |

Pictures and sounds stand under `image`, `images`, `audio` and `audios`, or under a file ending such as `jpg`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from cotune.data.media_store import StoreError, keep_bytes
from cotune.data.readers import alpaca, chat, llava
from cotune.data.readers.answers import QUESTIONS, choice_question, most_common
from cotune.data.readers.base import Problems
from cotune.data.readers.captions import PICTURE_SUFFIXES, SOUND_SUFFIXES
from cotune.data.readers.json_lines import Rows
from cotune.data.readers.record import Record
from cotune.data.science_qa import LETTERS
from cotune.errors import DataError, nearest
from cotune.messages import MEDIA_OF_PART, Audio, Image, Sample, modality_name, pack_texts, question_answer

QUESTION_KEYS = ("question", "query")
ANSWER_KEYS = ("answers", "answer", "label", "multiple_choice_answer", "direct_answers")
CAPTION_KEYS = ("caption", "captions", "text", "txt", "sentence", "sentences", "references")
# `train-00000-of-00003.parquet`, `val_000.tar`: what the first word of a shard's name says.
_SPLIT = re.compile(r"(train|training|validation|valid|val|dev|test)[-_.]")
IDENTIFIERS = ("id", "question_id", "__key__")


def sample_of_row(record: Record, root: Path) -> Sample:
    """Return the sample of a row, by its columns; it is of use only if the record is still sound."""
    fields = record.fields
    if fields.get("messages") is not None:
        return chat.sample_of(record, root)
    if fields.get("conversations") is not None:
        return llava.sample_of(record, root)
    if "instruction" in fields and "output" in fields:
        return alpaca.sample_of(record, root)
    if _first(fields, QUESTION_KEYS) and _first(fields, ANSWER_KEYS):
        return _question(record, root)
    if _first(fields, CAPTION_KEYS):
        return _caption(record, root)
    record.wrong(
        f"its columns ({', '.join(sorted(fields))}) hold no conversation (messages, conversations), no instruction and "
        "output, no question with an answer and no caption; rename one"
    )
    return question_answer(record.id, "", "")


def _question(record: Record, root: Path) -> Sample:
    """Return the sample of a row with a question, its answers and perhaps choices."""
    question = record.text(_first(record.fields, QUESTION_KEYS))
    key = _first(record.fields, ANSWER_KEYS)
    value, choices = record.fields[key], record.fields.get("choices") or record.fields.get("options") or []
    choices = [str(choice) for choice in choices] if isinstance(choices, list) else []
    answers = [str(item.get("answer")) if isinstance(item, dict) else str(item) for item in _listed(value)]
    answer = most_common(answers)
    if choices and isinstance(value, int):
        if not 0 <= value < min(len(choices), len(LETTERS)):
            record.wrong(f"column '{key}' holds {value}; the index of one of {len(choices)} choices is expected")
        answer = LETTERS[min(value, len(LETTERS) - 1)]
    asked = choice_question(question, choices) if choices else question
    meta = {"answer": answer, "answers": pack_texts(answers), "options": pack_texts(choices)}
    return _with_media(record, root, asked, answer, meta)


def _caption(record: Record, root: Path) -> Sample:
    """Return the sample of a row with a caption; its question is that of the kind of media."""
    value = record.fields[_first(record.fields, CAPTION_KEYS)]
    captions = [
        str(item.get("raw", item.get("caption"))) if isinstance(item, dict) else str(item) for item in _listed(value)
    ]
    meta = {"answer": captions[0].strip(), "references": pack_texts(caption.strip() for caption in captions)}
    return _with_media(record, root, "", meta["answer"], meta)


def _with_media(record: Record, root: Path, question: str, answer: str, meta: dict[str, str]) -> Sample:
    """Return a sample of a row's media; other columns that hold plain values are its `meta`, the rest is counted."""
    images = [part for key in ("image", "images") for part in record.media(Image, key, root)]
    sounds = [part for key in ("audio", "audios") for part in record.media(Audio, key, root)]
    media: tuple[Image | Audio, ...] = (*images, *sounds)
    if not question and not media:
        record.wrong("a caption, but no picture and no sound (column image or audio)")
    used = (*QUESTION_KEYS, *ANSWER_KEYS, *CAPTION_KEYS, "choices", "options", "image", "images", "audio", "audios")
    meta = {**record.meta(used), **meta}
    kind = modality_name(MEDIA_OF_PART[type(part)] for part in media)
    return question_answer(
        record.id, question or QUESTIONS.get(kind, ""), answer, media=media, origin=record.origin, meta=meta
    )


def samples_of_rows(rows: Rows, root: Path, problems: Problems) -> Iterator[Sample]:
    """Yield the sound samples of rows in order."""
    for index in range(len(rows)):
        record = rows.record(index, problems)
        sample = sample_of_row(record, root) if record is not None else None
        if record is not None and sample is not None and record.sound:
            yield sample


def row_record(row: Mapping[str, Any], origin: str, number: int, problems: Problems) -> Record:
    """Return a row as a record: media inside of it become files, and webdataset's file endings become columns."""
    fields: dict[str, Any] = {}
    record = Record(fields, origin, number, problems)
    for key, value in row.items():
        ending = f".{key.rpartition('.')[2].lower()}"
        name = "image" if ending in PICTURE_SUFFIXES else "audio" if ending in SOUND_SUFFIXES else key
        if key == "json" and isinstance(value, dict):
            fields.update({inner: own for inner, own in value.items() if inner not in fields})
        elif key != "__url__":
            fields[name] = _kept(value, record)
    if "id" not in fields:
        fields["id"] = next((fields[key] for key in IDENTIFIERS if fields.get(key) is not None), number)
    return record


def _kept(value: Any, record: Record) -> Any:
    """Return a cell with every picture and sound in it (`bytes` and `path`) replaced by the path of a kept file."""
    if isinstance(value, list):
        return [_kept(item, record) for item in value]
    if not isinstance(value, dict):
        return value
    if not ({"bytes", "path"} >= value.keys() and value.keys()):
        return {key: _kept(item, record) for key, item in value.items()}
    if value.get("bytes") is None:
        return value.get("path")
    try:
        return keep_bytes(value["bytes"], PurePosixPath(value.get("path") or "").suffix)
    except StoreError as error:
        record.wrong(f"a picture or sound in this row: {error}")
        return None


def files_of_split(path: Path, suffix: str, split: str) -> list[str]:
    """Return the files of a split, told by the first word of their names; raises DataError when that is not one."""
    files = files_in(path, suffix)
    if not files:
        raise DataError("a table cannot be read", [f"{path}: no {suffix} file, nor a folder of them"])
    by_split: dict[str, list[str]] = {}
    for file in files:
        word = _SPLIT.match(Path(file).name)
        by_split.setdefault(word[1] if word else "", []).append(file)
    if split and split not in by_split:
        raise DataError(
            "a table cannot be read", [f"{path}: no files of the split '{split}'{nearest(split, list(by_split))}"]
        )
    if not split and len(by_split) > 1:
        names = ", ".join(sorted(filter(None, by_split)))
        raise DataError(
            "a table cannot be read", [f"{path}: files of several splits ({names}); name one: options.split"]
        )
    return by_split[split] if split else files


def files_in(path: Path, suffix: str) -> list[str]:
    """Return the files of a suffix: the path itself, or those in the folder, in order."""
    if path.is_file():
        return [str(path)] if path.suffix == suffix else []
    found: Sequence[Path] = ()
    if path.is_dir():
        found = list(chain(path.glob(f"*{suffix}"), path.glob(f"data/*{suffix}")))
    return sorted(str(file) for file in found)


def media_root(path: Path, media: Path | None) -> Path:
    """Return the folder that paths in the rows are relative to."""
    return media or (path.parent if path.is_file() else path)


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of the names that a row has a value under, empty when it has none."""
    return next((name for name in names if fields.get(name) not in (None, "", [])), "")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
