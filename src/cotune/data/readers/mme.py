"""MME: yes/no questions about pictures in 14 subtasks, two for each picture.

Of the official folder `MME_Benchmark_release_version` (Fu et al. 2023, arXiv 2306.13394), each subtask is a folder with
a text file for every picture, whose lines are a question, a tab, and Yes or No. Text and picture lie beside each other
(`count/000000006040.jpg`, `count/000000006040.txt`), or apart (`scene/images/`, `scene/questions_answers_YN/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import peek
from cotune.data.readers.record import Record
from cotune.messages import Image, Sample, question_answer

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
NOT_THERE = "subtasks of MME that are not in the folder"
_APART = ("images", "questions_answers_YN")
_SUFFIXES = (".jpg", ".png", ".jpeg")


def missing(path: Path) -> str:
    """Return what keeps a folder from holding subtasks of MME."""
    if any(_asks(texts) for texts in _subtasks(path).values()):
        return ""
    return "no folder in it is named as a subtask (existence, count ...) and holds yes/no questions"


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per question, answered Yes or No; `meta` holds its `category` (subtask) and `picture`.

    Pictures lie where the official folder has them, or at the same places below `media`.
    """
    found = _subtasks(path)
    if len(found) < len(PERCEPTION) + len(COGNITION):
        problems.count(NOT_THERE, len(PERCEPTION) + len(COGNITION) - len(found))
    for name, texts in found.items():
        folder = (path if media is None else media) / name
        pictures = folder / _APART[0] if texts.name == _APART[1] else folder
        for file in sorted(texts.glob("*.txt")):
            yield from _samples(name, file, pictures, problems)


def _subtasks(path: Path) -> dict[str, Path]:
    """Return the folder with the questions of every subtask that is there."""
    found = {}
    for name in (*PERCEPTION, *COGNITION):
        apart = path / name / _APART[1]
        texts = apart if apart.is_dir() else path / name
        if texts.is_dir() and next(texts.glob("*.txt"), None) is not None:
            found[name] = texts
    return found


def _asks(texts: Path) -> bool:
    """Return whether the first file of a folder begins with a question, a tab, and Yes or No: captions do not."""
    first = peek(min(texts.glob("*.txt"))).partition("\n")[0]
    return first.rstrip().lower().endswith(("\tyes", "\tno"))


def _samples(category: str, file: Path, pictures: Path, problems: Problems) -> Iterator[Sample]:
    """Yield the questions in one file, about the picture of its name."""
    picture = next((name for suffix in _SUFFIXES if (pictures / (name := file.stem + suffix)).is_file()), "")
    meta = {"category": category, "picture": f"{category}/{file.stem}"}
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    asked = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    for place, (number, line) in enumerate(asked, start=1):
        question, tab, answer = line.rpartition("\t")
        record = Record({"id": f"{category}/{file.stem}#{place}"}, f"{file}:{number}", place, problems)
        if not tab or not question.strip() or answer.strip().lower() not in ("yes", "no"):
            record.wrong("a question, a tab, and Yes or No is expected")
        image = record.medium(Image, picture or f"{file.stem}.jpg", pictures)
        if record.sound:
            yield question_answer(
                record.id, question.strip(), answer.strip(), media=(image,), origin=record.origin, meta=meta
            )


READER = Reader(
    "mme", "MME: MME_Benchmark_release_version, a folder for each subtask (existence/, count/ ...)", missing, read
)
