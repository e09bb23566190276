"""A-OKVQA: questions that need knowledge of the world, with four choices and ten free answers.

`aokvqa_v1p0_train.json` (Schwenk et al. 2022, arXiv 2206.01718) is a list of `question_id`, `split`, `image_id`,
`question`, `choices`, `correct_choice_idx`, `direct_answers`, `difficult_direct_answer` and `rationales`; pictures are
those of COCO 2017, `train2017/000000000009.jpg`. The test set has no answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cotune.data.readers.answers import choice_question, most_common
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.coco import picture_folder, picture_name
from cotune.data.readers.json_files import missing_keys, read_records
from cotune.data.readers.record import Record
from cotune.data.readers.split_folder import answer_index, choices_of
from cotune.data.science_qa import LETTERS
from cotune.messages import Image, Sample, pack_texts, question_answer

WITHOUT_ANSWERS = "questions without an answer (a test set), skipped"


def missing(path: Path) -> str:
    """Return what keeps a file from being A-OKVQA's."""
    return missing_keys(path, "question_id", "image_id", "question", "choices")


def read(
    path: Path, media: Path | None, problems: Problems, *, answers: Literal["choice", "direct"] = "choice"
) -> Iterator[Sample]:
    """Yield one sample per question: answered by the letter of the right choice, or (`direct`) by most people's words.

    `meta` holds the `options`, the right letter (`answer`) or words, all `answers`, the `rationales` and whether direct
    answers are called difficult (`difficult_direct_answer`: such questions are left out of the direct score).
    """
    for record in read_records(path, problems):
        needed = "correct_choice_idx" if answers == "choice" else "direct_answers"
        if record.fields.get(needed) is None:
            problems.count(WITHOUT_ANSWERS)
            continue
        sample = _sample(record, path, media, by_letter=answers == "choice")
        if record.sound:
            yield sample


def _sample(record: Record, path: Path, media: Path | None, *, by_letter: bool) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound."""
    choices = choices_of(record)
    direct = record.texts("direct_answers") if record.fields.get("direct_answers") else []
    question, split = record.text("question"), record.text("split")
    number = record.fields.get("image_id")
    if not isinstance(number, int) or isinstance(number, bool):
        record.wrong(f"key 'image_id' holds {number!r}; a whole number is expected")
        number = 0
    folder = f"{split}2017"
    image = record.medium(Image, picture_name(folder, number), picture_folder(path, media, folder))
    answer = LETTERS[answer_index(record, len(choices), "correct_choice_idx")] if by_letter else most_common(direct)
    meta = {
        "question_id": record.text("question_id"),
        "split": split,
        "choices": str(len(choices)),
        "options": pack_texts(choices),
        "answer": answer,
        "answers": pack_texts(direct),
        "rationales": pack_texts(record.texts("rationales") if record.fields.get("rationales") else []),
        "difficult_direct_answer": str(bool(record.fields.get("difficult_direct_answer"))).lower(),
    }
    asked = choice_question(question, choices) if by_letter else question
    return question_answer(meta["question_id"], asked, answer, media=(image,), origin=record.origin, meta=meta)


READER = Reader("a-okvqa", "A-OKVQA: aokvqa_v1p0_train.json, with COCO's train2017/ beside it", missing, read)
