"""COCO captions: the official annotation files, and the split of Karpathy with the captions inside.

`captions_train2017.json` (Chen et al. 2015, arXiv 1504.00325) holds `images` (`id`, `file_name`) and `annotations`
(`image_id`, `id`, `caption`). `dataset_coco.json` (Karpathy and Fei-Fei 2015, arXiv 1412.2306; also those of Flickr8k
and Flickr30k) holds `images`, each with `filepath`, `filename`, `split` and `sentences` (`raw`, `sentid`); the path
names one of its splits: `dataset_coco.json/train`, and as is custom `restval` belongs to `train`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotune.data.readers.answers import Per, caption_samples
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.coco import folder_in, picture_folder
from cotune.data.readers.json_files import listed_objects, peek, peek_end, read_object
from cotune.data.readers.record import Record
from cotune.errors import nearest
from cotune.messages import Image, Sample

UNDESCRIBED = "pictures without a caption, skipped"
STRAY = "captions of pictures that the file does not list, skipped"


def missing(path: Path) -> str:
    """Return what keeps a file from being one of COCO's with captions."""
    if not path.is_file():
        return "not a file"
    start, end = peek(path), peek_end(path)
    if start[:1] != "{" or '"images"' not in start:
        return "no JSON object with 'images'"
    return "" if '"caption"' in start + end and '"image_id"' in start + end else "no 'annotations' with a 'caption'"


def missing_karpathy(path: Path) -> str:
    """Return what keeps a file, or the file the path names a split of, from being Karpathy's."""
    file, _ = _file_and_split(path)
    if not file.is_file():
        return "not a file, nor a split of one (FILE/train)"
    start = peek(file)
    words = [word for word in ("images", "sentences", "split", "filename") if f'"{word}"' not in start]
    return f"no {' and no '.join(map(repr, words))} at its beginning" if words or start[:1] != "{" else ""


def read(path: Path, media: Path | None, problems: Problems, *, per: Per = "caption") -> Iterator[Sample]:
    """Yield one sample per caption, or one per picture; `meta` holds all captions of the picture (`references`).

    Pictures lie in `media`, or in the folder that the name of the file says (`train2017`).
    """
    content = read_object(path, problems)
    captions: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    for record in listed_objects(content, "annotations", path, problems):
        captions[record.fields.get("image_id")].append((str(record.fields.get("id")), record.text("caption")))
    folder = picture_folder(path, media, folder_in(path.name))
    for record in listed_objects(content, "images", path, problems):
        found = captions.pop(record.fields.get("id"), None)
        image = record.medium(Image, record.fields.get("file_name"), folder)
        if found is None:
            problems.count(UNDESCRIBED)
        elif record.sound:
            meta = {"image_id": record.id}
            yield from caption_samples(record.id, image, found, problems, per=per, origin=record.origin, meta=meta)
    if captions:
        problems.count(STRAY, sum(map(len, captions.values())))


def read_karpathy(path: Path, media: Path | None, problems: Problems, *, per: Per = "caption") -> Iterator[Sample]:
    """Yield one sample per caption of a split, or one per picture; `meta` holds all captions of the picture.

    Pictures lie under `filepath` (`train2014`) beside the file, one folder up, or in `media`.
    """
    file, split = _file_and_split(path)
    records = list(listed_objects(read_object(file, problems), "images", file, problems))
    splits = {str(record.fields.get("split")) for record in records}
    splits |= {"train"} if "restval" in splits else set()
    if records and split not in splits:
        paths = " or ".join(f"{file / name}" for name in sorted(splits))
        hint = f"there is no split '{split}'{nearest(split, sorted(splits))}" if split else "no split is named"
        problems.add(str(file), hint if split else f"{hint}; write {paths}")
        return
    wanted = {"train", "restval"} if split == "train" else {split}
    for record in records:
        if record.fields.get("split") in wanted:
            yield from _described(record, file, media, problems, per)


def _described(record: Record, file: Path, media: Path | None, problems: Problems, per: Per) -> Iterator[Sample]:
    """Yield the samples of one picture of Karpathy's file."""
    folder = picture_folder(file, media, record.optional_text("filepath") or None)
    image = record.medium(Image, record.fields.get("filename"), folder)
    captions = [
        (str(sentence.get("sentid", number)), record.text("raw", sentence, where=f"sentences[{number}]"))
        for number, sentence in enumerate(record.objects("sentences"))
    ]
    if record.sound:
        identifier = str(record.fields.get("cocoid", record.fields.get("imgid", record.number)))
        meta = {"image_id": identifier, "split": str(record.fields["split"])}
        yield from caption_samples(identifier, image, captions, problems, per=per, origin=record.origin, meta=meta)


def _file_and_split(path: Path) -> tuple[Path, str]:
    """Return the file and the split that the path names behind it, if it names one."""
    return (path.parent, path.name) if not path.exists() and path.parent.is_file() else (path, "")


READER = Reader(
    "coco-captions", "COCO captions: an official file such as captions_train2017.json beside train2017/", missing, read
)
KARPATHY_READER = Reader(
    "karpathy",
    "Karpathy's split: dataset_coco.json/train (or val, test) beside train2014/ and val2014/",
    missing_karpathy,
    read_karpathy,
)
