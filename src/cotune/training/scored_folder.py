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
from cotune.messages import Sample
from cotune.progress import table
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
        "questions": len(predictions),
        "without_words": sum(not item.prediction.strip() for item in predictions),
        "counts": dict(prepared.samples.counts),
        "overlap": overlap.as_result() if isinstance(overlap, Overlap) else overlap,
        "processes": prepared.processes.size,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }


def finish_answers(
    answers: AnswersFolder, predictions: Sequence[Prediction], content: Mapping[str, Any], shown: int, console: Console
) -> None:
    """Write and print everything that came of an evaluation; `shown` answers are on the page to look at."""
    task, scores = content["settings"]["task"], content["scores"]
    answers.finish(predictions, content)
    own, papers = printed_scores(task, scores), beside_papers(task, scores, content["questions"])
    title, about = f"{task} by {content['run']}", _about_lines(content)
    write_whole(answers.table, markdown_report(title, [*own, *papers], about))
    for printed in (*own, *(narrowed(found, task, console.width) for found in papers)):
        console.print(table(printed.title, printed.columns, printed.rows))
        for note in printed.notes:
            console.print(note, markup=False)
    console.print(f"{about['questions']} ({content['seconds']:.0f} s)")
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
        "questions": f"{content['questions']:,}, of which {content['without_words']:,} were answered without words",
        "counted": ", ".join(f"{name} {value:,}" for name, value in content["counts"].items()),
        "trained on": trained_on,
        "settings": ", ".join(f"{key} {value}" for key, value in content["settings"].items()),
    }
