"""VQA: the official questions and annotations of VQA v1 and v2, and of OK-VQA, which has the same files.

`v2_OpenEnded_mscoco_train2014_questions.json` holds `questions` (`question_id`, `image_id`, `question`), the file
`v2_mscoco_train2014_annotations.json` beside it `annotations` (`question_id`, `answers`: ten of `answer` and
`answer_confidence`, `multiple_choice_answer`, `question_type`, `answer_type`), and both their `data_subtype` (Goyal et
al. 2017, arXiv 1612.00837). The path is either file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.answers import most_common
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.coco import folder_in, picture_folder, picture_name
from cotune.data.readers.json_files import first_keys, listed_objects, peek, read_object
from cotune.data.readers.record import Record
from cotune.messages import Image, Sample, pack_texts, question_answer

UNANSWERED = "questions without an annotation, skipped"


def missing(path: Path) -> str:
    """Return what keeps a file from being VQA's questions or annotations."""
    if not path.is_file():
        return "not a file"
    keys, start = first_keys(path), peek(path)
    if "questions" in keys and {"task_type", "data_subtype", "data_type"} & keys:
        return ""
    if "annotations" in keys and '"question_id"' in start and '"answers"' in start:
        return ""
    return "no JSON object with VQA's 'questions' or 'annotations'"


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per question, answered as most of the ten people did.

    `meta` holds the `answers` of all ten, `kind` (`yes/no`, `number`, `other`), `question_type` and `question_id`.
    Pictures lie in `media`, or in the folder that `data_subtype` names (`train2014`).
    """
    asked, answered = _pair(path)
    gone = [file for file in (asked, answered) if not file.is_file()]
    for file in gone:
        problems.add(
            str(file), f"the file is missing; it belongs to {path.name} (a test set without answers cannot be learned)"
        )
    if gone:
        return
    content = read_object(asked, problems)
    annotations = {
        record.fields.get("question_id"): record
        for record in listed_objects(read_object(answered, problems), "annotations", answered, problems)
    }
    name = str(content.get("data_subtype") or folder_in(asked.name))
    folder = picture_folder(asked, media, name)
    for record in listed_objects(content, "questions", asked, problems):
        annotation = annotations.get(record.fields.get("question_id"))
        if annotation is None:
            problems.count(UNANSWERED)
            continue
        sample = _sample(record, annotation, folder, name)
        if record.sound and annotation.sound:
            yield sample


def _sample(record: Record, annotation: Record, folder: Path, name: str) -> Sample:
    """Return the sample of a question and its annotation; it is of use only if both are still sound."""
    answers = [
        annotation.text("answer", item, where=f"answers[{number}]")
        for number, item in enumerate(annotation.objects("answers"))
    ]
    number = record.fields.get("image_id")
    if not isinstance(number, int) or isinstance(number, bool):
        record.wrong(f"key 'image_id' holds {number!r}; a whole number is expected")
        number = 0
    answer = annotation.optional_text("multiple_choice_answer") or most_common(answers)
    meta = {
        "question_id": str(record.fields.get("question_id")),
        "kind": annotation.optional_text("answer_type"),
        "question_type": annotation.optional_text("question_type"),
        "answer": answer,
        "answers": pack_texts(answers),
    }
    image = record.medium(Image, picture_name(name, number), folder)
    question = record.text("question")
    return question_answer(meta["question_id"], question, answer, media=(image,), origin=record.origin, meta=meta)


def _pair(path: Path) -> tuple[Path, Path]:
    """Return the files of questions and of annotations, given either."""
    name = path.name
    if name.endswith("annotations.json"):
        asked = name.replace("annotations.json", "questions.json").replace("mscoco_", "OpenEnded_mscoco_", 1)
        return path.with_name(asked), path
    answered = name.replace("questions.json", "annotations.json")
    for form in ("OpenEnded_", "MultipleChoice_"):
        answered = answered.replace(form, "", 1)
    return path, path.with_name(answered)


READER = Reader(
    "vqa", "VQA: v2_OpenEnded_mscoco_train2014_questions.json with its annotations and train2014/", missing, read
)
