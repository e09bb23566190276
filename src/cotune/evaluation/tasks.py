"""Tasks: how predictions become scores; a new task is one function and one entry in `TASKS`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cotune.errors import ModelError, nearest
from cotune.whole_file import write_whole

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Prediction:
    """One answered question; `modality` is the path that answered."""

    id: str
    question: str
    prediction: str
    reference: str
    modality: str
    meta: dict[str, str] = field(default_factory=dict)
    media: list[str] = field(default_factory=list)

    @property
    def correct(self) -> bool:
        """Whether prediction and reference are the same after `normalise`."""
        return normalise(self.prediction) == normalise(self.reference)


def normalise(answer: str) -> str:
    """Return an answer for comparison: lower case, single spaces, no full stops at the end."""
    return " ".join(answer.lower().split()).rstrip(" .")


def share(flags: Iterable[bool]) -> float | None:
    """Return the share of true flags; None for none at all, which is not the same as zero."""
    values = list(flags)
    return sum(values) / len(values) if values else None


def exact_match(predictions: Sequence[Prediction]) -> Scores:
    """Return `accuracy`: the share of predictions equal to their reference."""
    return {"accuracy": share(item.correct for item in predictions)}


def easy_vqa(predictions: Sequence[Prediction]) -> Scores:
    """Return accuracy in total, on open ("what ...") and on yes/no questions, and on colours and shapes.

    The total alone misleads: the question without the picture answers two thirds of it.
    """
    kinds = {"yes_no": {"yes/no"}, "open": {"color", "shape"}, "color": {"color"}, "shape": {"shape"}}
    scores = exact_match(predictions)
    for name, members in kinds.items():
        scores[f"{name}_accuracy"] = share(item.correct for item in predictions if item.meta.get("kind") in members)
    return scores


def captions(predictions: Sequence[Prediction]) -> Scores:
    """Return exact matches, and the mean F1 of the words of caption and reference.

    Words are compared as bags, so the order does not count; it is a quick look, not an official caption score.
    """
    overlaps = [_word_f1(item.prediction, item.reference) for item in predictions]
    return exact_match(predictions) | {"word_f1": sum(overlaps) / len(overlaps) if overlaps else None}


def _word_f1(prediction: str, reference: str) -> float:
    have, want = Counter(normalise(prediction).split()), Counter(normalise(reference).split())
    common = sum((have & want).values())
    return 2 * common / (sum(have.values()) + sum(want.values())) if common else 0.0


TASKS: dict[str, Callable[[Sequence[Prediction]], Scores]] = {
    "exact-match": exact_match,
    "easy-vqa": easy_vqa,
    "captions": captions,
}


def score(task: str, predictions: Sequence[Prediction]) -> Scores:
    """Return the scores of a task; raises ModelError with the nearest name for an unknown one."""
    check_task(task)
    return TASKS[task](predictions)


def check_task(task: str) -> None:
    """Raise ModelError with the nearest name when there is no such task."""
    if task not in TASKS:
        raise ModelError(f"evaluation.task: no task '{task}'{nearest(task, list(TASKS))}")


def write_predictions(file: Path, predictions: Iterable[Prediction]) -> None:
    """Write one JSON object per line, with whether it is correct."""
    rows = (json.dumps(asdict(item) | {"correct": item.correct}, ensure_ascii=False) for item in predictions)
    write_whole(file, "".join(row + "\n" for row in rows))


def read_predictions(file: Path) -> list[Prediction]:
    """Return the predictions `write_predictions` wrote."""
    with file.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return [Prediction(**{key: value for key, value in row.items() if key != "correct"}) for row in rows]
