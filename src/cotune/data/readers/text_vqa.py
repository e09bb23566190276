"""TextVQA: questions about the text in pictures, each with ten answers.

`TextVQA_0.5.1_train.json` (Singh et al. 2019, arXiv 1904.08920) holds `data`, a list of `question_id`, `question`,
`image_id`, `image_classes`, `answers` and `set_name`; pictures are `train_images/IMAGE_ID.jpg`
of `train_val_images.zip`, those of the test `test_images/IMAGE_ID.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cotune.data.readers.answers import most_common
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.json_files import listed_objects, peek, read_object
from cotune.data.readers.record import Record
from cotune.messages import Image, Sample, pack_texts, question_answer

WITHOUT_ANSWERS = "questions without answers (a test set), skipped"


def missing(path: Path) -> str:
    """Return what keeps a file from being TextVQA's."""
    if not path.is_file():
        return "not a file"
    start = peek(path)
    words = [word for word in ("data", "question_id", "image_id", "question") if f'"{word}"' not in start]
    return f"no {' and no '.join(map(repr, words))} at its beginning" if words or start[:1] != "{" else ""


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per question, answered as most people did; `meta` holds all `answers` and `image_classes`."""
    content = read_object(path, problems)
    for record in listed_objects(content, "data", path, problems):
        if not record.fields.get("answers"):
            problems.count(WITHOUT_ANSWERS)
            continue
        sample = _sample(record, _folder(record, path, media))
        if record.sound:
            yield sample


def _sample(record: Record, folder: Path) -> Sample:
    """Return the sample of a record; it is of use only if the record is still sound."""
    answers = record.texts("answers")
    image = record.medium(Image, f"{record.text('image_id')}.jpg", folder)
    answer = most_common(answers)
    identifier = str(record.fields.get("question_id", record.number))
    meta = {
        "question_id": identifier,
        "split": record.optional_text("set_name"),
        "image_classes": pack_texts(record.texts("image_classes") if record.fields.get("image_classes") else []),
        "answer": answer,
        "answers": pack_texts(answers),
    }
    question = record.text("question")
    return question_answer(identifier, question, answer, media=(image,), origin=record.origin, meta=meta)


def _folder(record: Record, path: Path, media: Path | None) -> Path:
    """Return the folder of a record's picture: training and validation share one, the test has its own."""
    name = "test_images" if record.fields.get("set_name") == "test" else "train_images"
    root = path.parent if media is None else media
    return root / name if media is None or (root / name).is_dir() else root


READER = Reader("textvqa", "TextVQA: TextVQA_0.5.1_train.json beside train_images/", missing, read)
