"""What scoring leaves in a folder: begun before the first answer, written and printed behind the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Console

from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.overlap import Overlap
from cotune.evaluation.paper_table import beside_papers, narrowed
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.score_tables import markdown_report, printed_scores
from cotune.evaluation.tasks import TASKS
from cotune.messages import Sample
from cotune.progress import table
from cotune.recipe import Legacy
from cotune.reporting.answer_page import write_answer_page
from cotune.training.model_and_data import Prepared
from cotune.training.versions import versions
from cotune.whole_file import write_whole


def begin_answers(
    answers: AnswersFolder,
    settings: Mapping[str, Any],
    samples: Sequence[Sample],
    console: Console,
    other: Literal["refuse", "replace"] = "refuse",
) -> None:
    """Make the folder ready, and say what of its lines was damaged.

    Raises:
        CotuneError: as `AnswersFolder.begin`.
    """
    dropped = answers.begin(settings, samples, other=other)
    if dropped:
        console.print(f"[yellow]{dropped} half-written line(s) dropped; their questions are answered again[/]")


def about_answers(
    prepared: Prepared, predictions: Sequence[Prediction], overlap: Overlap | str | None, seconds: float
) -> dict[str, Any]:
    """Return what is said of an evaluation beside its scores."""
    return {
        "data": [source.path for source in prepared.recipe.data.test],
        "official_data": _official(prepared),
        "questions": len(predictions),
        "without_words": sum(not item.prediction.strip() for item in predictions),
        "counts": dict(prepared.samples.counts),
        "overlap": overlap.as_result() if isinstance(overlap, Overlap) else overlap,
        "processes": prepared.processes.size,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }


def _official(prepared: Prepared) -> bool:
    """Return whether the data were read as the task's authors give them, so that papers are about the same."""
    reader = TASKS[prepared.recipe.evaluation.task].reader
    return reader is not None and all(source.reader == reader for source in prepared.recipe.data.test)


def finish_answers(
    answers: AnswersFolder, predictions: Sequence[Prediction], content: Mapping[str, Any], shown: int, console: Console
) -> None:
    """Write and print everything that came of an evaluation; `shown` answers are on the page to look at."""
    task, scores = content["settings"]["task"], content["scores"]
    answers.finish(predictions, content)
    own = printed_scores(task, scores)
    papers = beside_papers(task, scores, content["questions"]) if content["official_data"] else []
    title, about = f"{task} by {content['run']}", _about_lines(content)
    write_whole(answers.table, markdown_report(title, [*own, *papers], about))
    for printed in (*own, *(narrowed(found, task, console.width) for found in papers)):
        console.print(table(printed.title, printed.columns, printed.rows))
        for note in printed.notes:
            console.print(note, markup=False)
    console.print(f"Questions:           {about['questions']}; {content['seconds']:.0f} s in all")
    console.print(f"Predictions, scores: {answers.path}", soft_wrap=True)
    if shown:
        write_answer_page(predictions, answers.page, title=title, tables=[*own, *papers], count=shown, console=console)
        console.print(f"To look at:          {answers.page}", soft_wrap=True)


def _about_lines(content: Mapping[str, Any]) -> dict[str, str]:
    """Return what a page of scores says of them, by its heading."""
    overlap = content["overlap"]
    trained_on = Overlap(**overlap).sentence() if isinstance(overlap, dict) else overlap or "not compared"
    return {
        "data": ", ".join(content["data"]),
        "questions": f"{content['questions']:,}, {content['without_words']:,} of them answered without words",
        "counted": ", ".join(f"{name} {value:,}" for name, value in content["counts"].items() if value),
        "trained on": trained_on,
        "settings": ", ".join(f"{key} {value}" for key, value in _told_settings(content["settings"]).items()),
    }


def _told_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say something: without those that are off, and the legacy ones at their defaults."""
    told = {key: value for key, value in settings.items() if value not in (None, False, Legacy().model_dump())}
    return {key: "on" if value is True else value for key, value in told.items()}
