"""Tasks: how predictions become scores; a new task is one function of its own and one entry in `TASKS`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cotune.errors import ModelError, nearest
from cotune.evaluation import choices, clotho_aqa, mme, science_qa, vqa
from cotune.evaluation.caption_scoring import official_captions
from cotune.evaluation.prediction import Prediction, Scores, normalise, share
from cotune.evaluation.task import Count, Table, Task
from cotune.whole_file import write_whole


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


_SCIENCE_QA_TABLE = Table(
    "ScienceQA, percent (an answer that names no choice is wrong, or guessed)",
    ("wrong", "guessed", "likeliest option"),
    tuple((name, (name, f"{name}_guessed", f"{name}_option")) for name in science_qa.COLUMNS),
)
_MME_TABLE = Table(
    "MME, percent",
    ("acc", "acc+"),
    tuple((name, (f"{name}_accuracy", f"{name}_accuracy_plus")) for name in (*mme.PERCEPTION, *mme.COGNITION)),
)


def _official_captions(about: str, *, reader: str, file: str, max_new_tokens: int = 32) -> Task:
    """Return a task of captions, several for each picture or sound, with COCO's scores."""
    return Task(
        official_captions,
        about,
        reader=reader,
        reader_options={"per": "medium"},
        files=(file,),
        max_new_tokens=max_new_tokens,
        headline=("CIDEr", "Bleu_4", "ROUGE_L"),
        counts=True,
    )


TASKS: dict[str, Task] = {
    "exact-match": Task(exact_match, "the share of answers equal to their reference"),
    "easy-vqa": Task(
        easy_vqa,
        "easy-VQA: by kind of question",
        reader="easy-vqa",
        files=("test",),
        max_new_tokens=6,
        headline=("accuracy", "open_accuracy", "yes_no_accuracy"),
    ),
    "captions": Task(
        captions, "exact matches and the overlap of words, a quick look", max_new_tokens=32, headline=("word_f1",)
    ),
    "science-qa": Task(
        science_qa.science_qa,
        "ScienceQA: nine columns",
        credit=lambda item: float(science_qa.is_right(item)),
        reader="science-qa",
        files=("test",),
        option_prefix="The answer is ",
        max_new_tokens=64,
        table=_SCIENCE_QA_TABLE,
        headline=("Avg",),
    ),
    "vqav2": Task(
        vqa.vqa_v2,
        "VQA v2: the official accuracy, by kind of answer",
        credit=vqa.credit_vqa,
        reader="vqa",
        files=("*OpenEnded*val2014_questions.json",),
    ),
    "textvqa": Task(
        vqa.text_vqa,
        "TextVQA: the official accuracy",
        credit=vqa.credit_text_vqa,
        reader="textvqa",
        files=("TextVQA*val.json",),
    ),
    "a-okvqa": Task(
        choices.a_okvqa,
        "A-OKVQA: multiple choice",
        credit=choices.credit_choice,
        reader="a-okvqa",
        files=("aokvqa*val.json",),
        option_prefix="",
    ),
    "a-okvqa-direct": Task(
        choices.a_okvqa_direct,
        "A-OKVQA: answers in words",
        credit=choices.credit_direct,
        reader="a-okvqa",
        reader_options={"answers": "direct"},
        files=("aokvqa*val.json",),
    ),
    "iconqa": Task(
        choices.icon_qa,
        "IconQA: its three tasks",
        credit=choices.credit_choice,
        reader="iconqa",
        files=("test", "iconqa_data/test"),
        option_prefix="",
    ),
    "clotho-aqa": Task(
        clotho_aqa.clotho_aqa,
        "Clotho-AQA: questions about sounds",
        reader="clotho-aqa",
        files=("clotho_aqa_test.csv",),
    ),
    "coco-captions": _official_captions(
        "COCO captions: Karpathy's test split, the official scores", reader="karpathy", file="dataset_coco.json/test"
    ),
    "macs": _official_captions("MACS: captions of sounds, COCO's scores", reader="macs", file="MACS.yaml"),
    "song-describer": _official_captions(
        "Song Describer: captions of music, COCO's scores",
        reader="song-describer",
        file="song_describer.csv",
        max_new_tokens=64,
    ),
    "mme": Task(
        mme.mme,
        "MME: accuracies, and the totals of perception and cognition",
        credit=lambda item: float(mme.is_right(item)),
        reader="mme",
        files=("MME_Benchmark", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark"),
        table=_MME_TABLE,
        headline=("perception", "cognition"),
    ),
}
_RIGHT = 0.5  # of a point


def score(task: str, predictions: Sequence[Prediction], count: Count | None = None) -> Scores:
    """Return the scores of a task; `count` is told how much is done of how much where that takes long.

    Raises:
        ModelError: for an unknown task, with the nearest name.
    """
    check_task(task)
    known = TASKS[task]
    return known.scores(predictions, count) if known.counts else known.scores(predictions)


def with_verdicts(task: str, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the predictions with the task's own verdict on each, where it has one."""
    credit = TASKS[task].credit
    if credit is None:
        return list(predictions)
    credits = [credit(item) for item in predictions]
    return [
        replace(item, right=worth >= _RIGHT, credit=worth) for item, worth in zip(predictions, credits, strict=True)
    ]


def check_task(task: str) -> None:
    """Raise ModelError with the nearest name when there is no such task."""
    if task not in TASKS:
        raise ModelError(f"evaluation.task: no task '{task}'{nearest(task, list(TASKS))}")


def option_prefix(task: str) -> str:
    """Return what stands in front of the letter of an option; raises ModelError for a task without lettered options."""
    prefix = TASKS[task].option_prefix
    if prefix is None:
        having = ", ".join(name for name, known in TASKS.items() if known.option_prefix is not None)
        raise ModelError(
            f"{task} has no lettered options to choose from; leave `options` out (tasks that have some: {having})"
        )
    return prefix


def write_predictions(file: Path, predictions: Iterable[Prediction]) -> None:
    """Write one JSON object per line, with whether it is correct."""
    write_whole(file, prediction_lines(predictions))


def prediction_lines(predictions: Iterable[Prediction]) -> str:
    """Return predictions as lines of JSON, each ended."""
    return "".join(json.dumps(_row(item), ensure_ascii=False) + "\n" for item in predictions)


def _row(item: Prediction) -> dict[str, object]:
    optional = {"right": None, "credit": None, "prompt": ""}
    row = {key: value for key, value in asdict(item).items() if key not in optional or value != optional[key]}
    return row | {"correct": item.correct}


def read_predictions(file: Path) -> list[Prediction]:
    """Return the predictions `write_predictions` wrote."""
    with file.open(encoding="utf-8") as stream:
        return [read_prediction(line) for line in stream]


def read_prediction(line: str) -> Prediction:
    """Return the prediction of one line; raises ValueError or TypeError when the line is none."""
    return Prediction(**{key: value for key, value in json.loads(line).items() if key != "correct"})
