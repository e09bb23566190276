"""The ScienceQA format: a folder with `problems.json`, `pid_splits.json` and `images/SPLIT/PID/image.png`.

The path names a split of that folder: `FOLDER/train`, `FOLDER/test` or any other key of `pid_splits.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import read_object
from cotune.data.readers.record import Record
from cotune.data.readers.split_folder import (
    ICON_QA_TASKS,
    PROBLEMS,
    SPLITS,
    answer_index,
    choices_of,
    folder_and_split,
    has_splits_of,
    missing_files,
    problem_record,
    read_splits,
    split_names,
)
from cotune.data.science_qa import (
    DEFAULT_FORMAT,
    GRADES,
    SUBJECTS,
    Question,
    check_format,
    prompt_and_answer,
)
from cotune.errors import nearest
from cotune.messages import Image, Sample, question_answer

USED_KEYS = ("question", "choices", "answer", "hint", "image", "lecture", "solution")


def missing(path: Path) -> str:
    """Return what keeps the path, or the folder it names a split of, from holding ScienceQA's problems and splits."""
    return missing_files(path) or (f"its {SPLITS} is IconQA's" if has_splits_of(path, *ICON_QA_TASKS) else "")


def read(
    path: Path,
    media: Path | None,
    problems: Problems,
    *,
    prompt_format: str = DEFAULT_FORMAT,
    legacy: bool = False,
) -> Iterator[Sample]:
    """Yield one sample per problem of the split: the picture if it has one, the prompt, the answer.

    Pictures lie in `images` of the folder, or in `media`. `meta` holds what the scorer groups by: `subject`, `grade`,
    `topic`, `has_image` and `has_hint` (yes or no), the number of `choices`, the `answer`'s letter, the `pid`.

    Raises:
        DataError: when there is no such prompt format (`prompt_and_answer` explains them, and `legacy`).
    """
    check_format(prompt_format)
    folder, split = folder_and_split(path)
    known = read_object(folder / PROBLEMS, problems)
    names = split_names(read_splits(folder / SPLITS, known, problems), split, folder / SPLITS, problems)
    images = folder / "images" if media is None else media
    for name in names if known else ():  # without problems, one line has said so already
        record = problem_record(folder, split, name, known, problems)
        if record is None:
            continue
        question, image = _question(record), _image(record, split, images)
        meta = _meta(record, question, has_image=image is not None)
        if record.sound:
            prompt, answer = prompt_and_answer(question, prompt_format, legacy=legacy)
            pictures = () if image is None else (image,)
            yield question_answer(name, prompt, answer, media=pictures, origin=record.origin, meta=meta)


def _question(record: Record) -> Question:
    """Return what is asked; it is of use only if the record is still sound."""
    choices = choices_of(record)
    question = record.text("question")
    if "question" in record.fields and not question.strip():
        record.wrong("key 'question' holds no words")
    return Question(
        question=question,
        choices=choices,
        answer=answer_index(record, len(choices)),
        hint=record.optional_text("hint"),
        lecture=record.optional_text("lecture"),
        explanation=record.optional_text("solution"),
    )


def _image(record: Record, split: str | None, images: Path) -> Image | None:
    """Return the picture of a problem that has one: it lies under the split the problem itself names."""
    name = record.fields.get("image")
    if name is None or name == "":
        return None
    own = record.optional_text("split") or split
    return record.medium(Image, f"{own}/{record.id}/{name}" if isinstance(name, str) else name, images)


def _meta(record: Record, question: Question, *, has_image: bool) -> dict[str, str]:
    """Return what scoring groups by; a subject or grade that belongs to no group is a problem."""
    for key, groups in (
        ("subject", list(SUBJECTS.values())),
        ("grade", [name for own in GRADES.values() for name in own]),
    ):
        value = record.text(key)
        if value not in groups and isinstance(record.fields.get(key), str):
            record.wrong(f"key '{key}': '{value}' is not one of the benchmark's{nearest(value, groups)}")
    return record.meta(USED_KEYS) | {
        "pid": record.id,
        "has_image": _yes_no(has_image),
        "has_hint": _yes_no(bool(question.hint)),
        "choices": str(len(question.choices)),
        "answer": question.letter,
    }


def _yes_no(flag: bool) -> str:
    return "yes" if flag else "no"


READER = Reader(
    "science-qa", "ScienceQA: a split (FOLDER/train) of a folder with problems.json and pid_splits.json", missing, read
)
