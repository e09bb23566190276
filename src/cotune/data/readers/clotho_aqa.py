"""Clotho-AQA: questions about sounds, each answered by three people.

`clotho_aqa_train.csv` (Lipping et al. 2022, arXiv 2204.09634) has the columns `file_name`, `QuestionText`, `answer` and
`confidence`, a line for each answer; the sounds of all splits lie in `audio_files/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cotune.data.readers.answers import most_common
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.csv_records import missing_columns, read_csv
from cotune.data.readers.record import Record
from cotune.messages import Audio, Sample, pack_texts, question_answer

SOUNDS = "audio_files"


def missing(path: Path) -> str:
    """Return what keeps a file from being one of Clotho-AQA's."""
    return missing_columns(path, "file_name", "QuestionText", "answer")


def read(path: Path, media: Path | None, problems: Problems) -> Iterator[Sample]:
    """Yield one sample per question about a sound, answered as most people did.

    `meta` holds all `answers`, how sure each was (`confidence`) and `kind`: `yes/no`, or `word` for the questions that
    are answered by one. Sounds lie in `media`, or in `audio_files` beside the file.
    """
    folder = media or (path.parent / SOUNDS if (path.parent / SOUNDS).is_dir() else path.parent)
    together: dict[tuple[str, str], list[Record]] = {}
    for record in read_csv(path, problems):
        together.setdefault((record.text("file_name"), record.text("QuestionText")), []).append(record)
    asked: Counter[str] = Counter()
    for (name, question), records in together.items():
        asked[name] += 1
        sample = _sample(f"{name}#{asked[name]}", question, records, folder)
        if all(record.sound for record in records):
            yield sample


def _sample(identifier: str, question: str, records: Sequence[Record], folder: Path) -> Sample:
    """Return the sample of the records with one question about one sound."""
    first = records[0]
    answers = [record.text("answer").strip() for record in records]
    yes_no = {answer.lower() for answer in answers} <= {"yes", "no"}
    meta = {
        "kind": "yes/no" if yes_no else "word",
        "answer": most_common(answers),
        "answers": pack_texts(answers),
        "confidence": pack_texts(record.optional_text("confidence") for record in records),
    }
    sound = first.medium(Audio, first.text("file_name"), folder)
    return question_answer(identifier, question, meta["answer"], media=(sound,), origin=first.origin, meta=meta)


READER = Reader("clotho-aqa", "Clotho-AQA: clotho_aqa_train.csv beside audio_files/", missing, read)
