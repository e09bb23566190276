"""Scoring a finished run: on its own test set or on the official files of a task, with everything a reader asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cotune.errors import CotuneError, first_line
from cotune.evaluation.answer_settings import adapter_digest, answer_settings
from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.overlap import Overlap, tell_overlap
from cotune.evaluation.prediction import Scores
from cotune.evaluation.tasks import option_prefix
from cotune.messages import Sample
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder, open_run
from cotune.training.prepare import read_training_sources
from cotune.training.run import prepare_scoring
from cotune.training.scored_folder import about_answers, begin_answers, finish_answers
from cotune.training.task_recipe import recipe_for


@dataclass(frozen=True)
class Wanted:
    """What to score and how; None and empty: as the run's recipe says.

    `data` is a file or folder with a task's official files, `media` the folder of their pictures or sounds; `out` is
    the folder to write (default: `evaluation/TASK` of the run), where `overwrite` replaces other predictions. `options`
    scores lettered options as well; `shown` is how many answers the page to look at holds; `compare_with_training`
    looks for the questions in the recipe's training data.
    """

    task: str | None = None
    data: Path | None = None
    media: Path | None = None
    limit: int | None = None
    out: Path | None = None
    overwrite: bool = False
    options: bool = False
    batch_size: int | None = None
    max_new_tokens: int | None = None
    shown: int = 200
    compare_with_training: bool = True


def evaluate_run(folder: RunFolder, console: Console, wanted: Wanted | None = None) -> Scores:
    """Score a finished run; returns the scores and writes predictions, scores and a page of answers.

    Every answer is on the disk before the next batch: the same command goes on where it was stopped.

    Raises:
        CotuneError: for what the user can mend; what cannot be scored is refused before anything is answered.
    """
    wanted = wanted or Wanted()
    run, own = open_run(folder.path)
    recipe = recipe_for(
        own,
        task=wanted.task,
        data=wanted.data,
        media=wanted.media,
        limit=wanted.limit,
        max_new_tokens=wanted.max_new_tokens,
    )
    task, started = recipe.evaluation.task, time.monotonic()
    prefix = option_prefix(task) if wanted.options else None
    answers = AnswersFolder(wanted.out or run.path / "evaluation" / task)
    settings = answer_settings(recipe, adapter_digest(run), options=wanted.options)
    prepared = prepare_scoring(run, recipe, console)
    samples = prepared.samples.test
    prepared.processes.on_main(lambda: _begin(answers, settings, samples, wanted.overwrite, console))
    overlap = _overlap(recipe, samples, console) if wanted.compare_with_training and prepared.processes.main else None
    scores, predictions = prepared.evaluate(
        samples, "Answering", wanted.batch_size, folder=answers, option_prefix=prefix
    )
    about = about_answers(prepared, predictions, overlap, time.monotonic() - started)
    content = {"run": str(run.path), "settings": settings, **about, "scores": scores}
    prepared.processes.on_main(lambda: finish_answers(answers, predictions, content, wanted.shown, console))
    return scores


def _begin(
    answers: AnswersFolder, settings: dict[str, Any], samples: Sequence[Sample], overwrite: bool, console: Console
) -> None:
    if overwrite:
        answers.clear()
    begin_answers(answers, settings, samples, console)


def _overlap(recipe: Recipe, test: Sequence[Sample], console: Console) -> Overlap | str:
    """Return what of the test was trained on, or why that cannot be told."""
    try:
        train = read_training_sources(recipe.data, console)
    except (CotuneError, OSError) as error:
        reason = f"not compared with the training data, which cannot be read here: {first_line(error)}"
        console.print(f"[yellow]{reason}[/]", soft_wrap=True)
        return reason
    return tell_overlap(train, test, console)
