"""Captioned pictures: a folder in which each picture has a text file of the same name beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.base import Problems, Reader
from cotune.messages import Image, Sample, question_answer

QUESTION = "Describe the picture."
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
CAPTION_SUFFIX = ".txt"
NO_CAPTION = "pictures without a caption file, skipped"
EMPTY_CAPTION = "pictures whose caption has an empty first line, skipped"
NO_PICTURE = "caption files without a picture, skipped"
NOT_UTF8 = "captions read as Latin-1, because they are not UTF-8"
LINKED = "linked folders, not entered"


def sniff(path: Path) -> bool:
    """Return whether the folder holds, at any depth, a picture with a text file of the same name."""
    return path.is_dir() and any(caption for _, caption in _pictures(path, Problems()))


def read(path: Path, media: Path | None, problems: Problems, *, question: str = QUESTION) -> Iterator[Sample]:
    """Yield one sample per picture with a caption: the first line of its text file (others may be translations).

    `meta` holds the category (the first folder below `path`) and the answer.
    """
    if media is not None:
        problems.add(str(path), "captions lie beside their pictures; leave `media` out")
    for picture, caption in _pictures(path, problems):
        if caption is None:
            problems.count(NO_CAPTION)
            continue
        answer = _first_line(caption, problems)
        if not answer:
            problems.count(EMPTY_CAPTION)
            continue
        inside = picture.relative_to(path)
        category = inside.parts[0] if len(inside.parts) > 1 else path.name
        yield question_answer(
            inside.as_posix(),
            question,
            answer,
            media=(Image(picture),),
            origin=f"{caption}:1",
            meta={"category": category, "answer": answer},
        )


def _pictures(root: Path, problems: Problems) -> Iterator[tuple[Path, Path | None]]:
    """Yield every picture below a folder with its caption file, if it has one, in the order of their names."""
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        here = Path(folder)
        linked = sum((here / name).is_symlink() for name in folders)
        if linked:
            problems.count(LINKED, linked)
        paths = sorted(here / name for name in files)
        captions = {path.stem: path for path in paths if path.suffix.lower() == CAPTION_SUFFIX}
        pictures = [path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]
        alone = len(captions.keys() - {picture.stem for picture in pictures})
        if alone:
            problems.count(NO_PICTURE, alone)
        for picture in pictures:
            yield picture, captions.get(picture.stem)


def _raise(error: OSError) -> None:
    """Raise an error of os.walk, which passes over folders it cannot open otherwise."""
    raise error


def _first_line(path: Path, problems: Problems) -> str:
    """Return the first line of a text file without the spaces around it."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        problems.count(NOT_UTF8)
        return line.decode("latin-1").strip()


READER = Reader(
    "captions", "captions: a folder of pictures, each with a caption in a .txt of the same name", sniff, read
)
