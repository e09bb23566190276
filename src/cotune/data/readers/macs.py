"""MACS: soundscapes, each described by two to five people.

`MACS.yaml` (Martin and Mesaros 2021, DCASE workshop; zenodo 5114771) holds `files`, each with `filename` and
`annotations`: `annotator_id`, `sentence` and `tags`. The sounds are those of TAU Urban Acoustic Scenes 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cotune.data.readers.answers import Per, caption_samples
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import listed_objects, peek
from cotune.data.readers.record import Record
from cotune.messages import Audio, Sample, pack_texts

SOUNDS = "audio"
# Every value as the text it is written as, and by the C library where there is one: that takes a tenth of the time.
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def missing(path: Path) -> str:
    """Return what keeps a file from being MACS's."""
    if not path.is_file():
        return "not a file"
    start = peek(path)
    words = [word for word in ("files", "filename", "annotator_id", "sentence") if f"{word}:" not in start]
    return f"no {' and no '.join(map(repr, words))} at its beginning" if words else ""


def read(path: Path, media: Path | None, problems: Problems, *, per: Per = "caption") -> Iterator[Sample]:
    """Yield one sample per description, or one per sound.

    `meta` holds all descriptions of the sound (`references`) and its `tags`, each once. Sounds lie in `media`, or in
    `audio` beside the file.
    """
    folder = media or (path.parent / SOUNDS if (path.parent / SOUNDS).is_dir() else path.parent)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add(str(path), f"no YAML: {' '.join(str(error).split())}")
        return
    if not isinstance(content, dict):
        problems.add(str(path), "a mapping with the key 'files' is expected")
        return
    for record in listed_objects(content, "files", path, problems):
        yield from _described(record, folder, problems, per)


def _described(record: Record, folder: Path, problems: Problems, per: Per) -> Iterator[Sample]:
    """Yield the samples of one sound."""
    name = record.text("filename")
    annotations = record.objects("annotations")
    captions = [
        (
            str(annotation.get("annotator_id", number)),
            record.text("sentence", annotation, where=f"annotations[{number}]"),
        )
        for number, annotation in enumerate(annotations)
    ]
    tags = dict.fromkeys(tag for annotation in annotations for tag in annotation.get("tags") or [])
    sound = record.medium(Audio, name, folder)
    if record.sound:
        meta = {"tags": pack_texts(map(str, tags))}
        yield from caption_samples(name, sound, captions, problems, per=per, origin=record.origin, meta=meta)


READER = Reader("macs", "MACS: MACS.yaml beside audio/", missing, read)
