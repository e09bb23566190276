"""IconQA: questions about abstract diagrams, with choices in words, choices in pictures, or a blank to fill in.

The official folder `iconqa_data` (Lu et al. 2021, arXiv 2110.13214) holds `problems.json` (by id: `question`,
`ques_type`, `choices`, `answer`, `grade`, `label`, `split`), `pid_splits.json` (`choose_txt_train` ...)
and pictures in `iconqa/SPLIT/TASK/ID/`: `image.png`, and those of the choices. The path names a split of it:
`iconqa_data/choose_txt_train`, or `iconqa_data/train` for the three tasks together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.answers import choice_question
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
from cotune.data.science_qa import LETTERS
from cotune.errors import nearest
from cotune.messages import Image, Message, Part, Sample, Text, pack_texts


def missing(path: Path) -> str:
    """Return what keeps the path, or the folder it names a split of, from holding IconQA's problems and splits."""
    return missing_files(path) or ("" if has_splits_of(path, *ICON_QA_TASKS) else f"its {SPLITS} names no task of it")


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per problem of the split: its picture, the question, the choices (in words or as pictures).

    Pictures lie in `iconqa` of the folder, or in `media`. `meta` holds `task`, `grade`, `pid`, the `options` and the
    `answer`: the letter of the right choice, or the words that fill the blank.
    """
    folder, split = folder_and_split(path)
    known = read_object(folder / PROBLEMS, problems)
    # `train` is no split of the file, but its three parts are.
    parts = [f"{task}_{split}" for task in ICON_QA_TASKS] if split in ("train", "val", "test") else [split]
    splits = read_splits(folder / SPLITS, known, problems)
    images = folder / "iconqa" if media is None else media
    for part in parts if known else ():
        for name in split_names(splits, part, folder / SPLITS, problems):
            record = problem_record(folder, part, name, known, problems)
            sample = _sample(record, images) if record is not None else None
            if record is not None and record.sound and sample is not None:
                yield sample


def _sample(record: Record, images: Path) -> Sample:
    """Return the sample of a problem; it is of use only if the record is still sound."""
    task, question, split = record.text("ques_type"), record.text("question"), record.text("split")
    if task not in ICON_QA_TASKS:
        record.wrong(f"key 'ques_type': '{task}' is none of the tasks{nearest(task, ICON_QA_TASKS)}")
    place = f"{split}/{task}/{record.id}"
    choices = choices_of(record) if task != "fill_in_blank" else ()
    answer = LETTERS[answer_index(record, len(choices))] if choices else str(record.fields.get("answer", ""))
    asked: list[Part] = [record.medium(Image, f"{place}/image.png", images)]
    if task == "choose_img":
        asked.append(Text(f"{question}\nOptions:"))
        for letter, choice in zip(LETTERS, choices, strict=False):
            asked += [Text(f" ({letter}) "), record.medium(Image, f"{place}/{choice}", images)]
        asked.append(Text("\nAnswer with the letter of the right option."))
    else:
        asked.append(Text(choice_question(question, choices) if choices else question))
    meta = {
        "pid": record.id,
        "task": task,
        "grade": record.optional_text("grade"),
        "choices": str(len(choices)),
        "options": pack_texts(choices),
        "answer": answer,
    }
    messages = (Message("user", tuple(asked)), Message("assistant", (Text(answer),)))
    return Sample(record.id, messages, record.origin, meta)


READER = Reader(
    "iconqa", "IconQA: a split (iconqa_data/train, iconqa_data/choose_txt_val) of its official folder", missing, read
)
