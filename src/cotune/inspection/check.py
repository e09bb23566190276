"""`cotune check`: reads a data set as training would, and says what it holds and what training would stumble on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cotune.data.lazy_samples import joined
from cotune.data.media_check import look_at_media
from cotune.errors import DataError, RecipeError
from cotune.evaluation.tasks import TASKS
from cotune.inspection.duplicates import between, within
from cotune.inspection.opened import TRAIN, OpenedData
from cotune.inspection.survey import Survey, survey
from cotune.messages import Sample
from cotune.progress import counted_progress, progress, table
from cotune.reporting.length_picture import draw_lengths
from cotune.training.benchmarks import read_benchmarks

_SHOWN_IDS = 5


def check(opened: OpenedData, console: Console, output: Path | None = None) -> Path | None:
    """Print what a data set holds, draw its lengths, and return the picture's path; None where there is no sample.

    Raises:
        DataError: with everything that would make training fail, after all of it was printed.
    """
    surveys = {split: _survey(split, samples, opened, console) for split, samples in opened.splits.items()}
    problems = [*opened.problems, *(problem for found in surveys.values() for problem in found.problems)]
    bad_media = _bad_media(opened, console)
    if opened.settings.bad_media == "error":
        problems += bad_media
    picture = None
    if surveys:
        _print_tables(surveys, opened, console)
        for line in _remarks(opened, surveys, bad_media):
            console.print(f"[yellow]{line}[/]", soft_wrap=True)
        picture = output or opened.beside.with_name(f"{opened.beside.name}.png")
        if not picture.suffix:
            picture = picture.with_suffix(".png")
        draw_lengths(
            picture,
            {split: found.lengths for split, found in surveys.items()},
            _unit(opened),
            opened.settings.max_tokens if opened.template else None,
        )
        console.print(f"Picture: {picture}", soft_wrap=True)
    problems += _task_problems(opened, console)
    if problems:
        raise DataError(f"{opened.name} cannot be trained on as it is", problems)
    console.print(f"{opened.name} can be trained on.")
    return picture


def _survey(split: str, samples: Sequence[Sample], opened: OpenedData, console: Console) -> Survey:
    what = "Tokenising" if opened.template else "Reading"
    with progress(console, f"{what} {split}", len(samples), "samples") as advance:
        return survey(samples, opened.template, opened.settings if split == TRAIN else None, advance)


def _bad_media(opened: OpenedData, console: Console) -> list[str]:
    """Return what is wrong with media files; nothing is decoded unless the recipe says `data.media_check=full`."""
    decode = opened.settings.media_check == "full"
    with counted_progress(console, "Looking at media", "files") as count:
        report = look_at_media(joined(opened.splits.values()), count, decode=decode)
    opened.counts.update(report.counts)
    return report.lines


def _task_problems(opened: OpenedData, console: Console) -> list[str]:
    """Return what keeps the recipe's further tasks from being scored; when nothing does, a table of them is printed."""
    if opened.recipe is None or not opened.recipe.evaluation.tasks:
        return []
    try:
        found = read_benchmarks(opened.recipe, console)
    except RecipeError as error:
        return error.problems
    rows = [
        [one.entry.label, one.entry.task, f"{len(one.samples.test):,}", TASKS[one.entry.task].main] for one in found
    ]
    console.print(table("Further tasks", ["name", "task", "questions", "main score"], rows))
    return []


def _unit(opened: OpenedData) -> str:
    return "tokens" if opened.template else "words"


def _print_tables(surveys: dict[str, Survey], opened: OpenedData, console: Console) -> None:
    columns = ["split", "samples", "least", "median", "95%", "most", "of answers", "too long"]
    title = f"{opened.name}, read as {', '.join(dict.fromkeys(opened.readers))}; lengths in {_unit(opened)}"
    rows = [[split, f"{found.samples:,}", *_lengths(found)] for split, found in surveys.items()]
    console.print(table(title, columns, rows))
    modalities = sorted({name for found in surveys.values() for name in found.modalities})
    rows = [
        [
            name,
            *(
                f"{found.modalities[name]:,} ({found.modalities[name] / found.samples:.0%})"
                for found in surveys.values()
            ),
        ]
        for name in modalities
    ]
    console.print(table("Modalities", ["modality", *surveys], rows))
    if opened.counts:
        rows = [[what, f"{number:,}"] for what, number in sorted(opened.counts.items())]
        console.print(table("While reading", ["what", "times"], rows))


def _lengths(found: Survey) -> list[str]:
    if not found.lengths:
        return ["-"] * 6
    ordered = sorted(found.lengths)
    numbers = (ordered[0], int(statistics.median(ordered)), ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])
    return [*(f"{number:,}" for number in numbers), f"{sum(found.answers):,}", f"{len(found.too_long):,}"]


def _remarks(opened: OpenedData, surveys: dict[str, Survey], bad_media: list[str]) -> list[str]:
    """Return what is worth knowing although training would not fail."""
    lines = [opened.no_template] if opened.no_template else []
    for split, found in surveys.items():
        lines += _too_long_remark(split, found, opened)
        if found.typed:
            lines.append(f"{split}: samples with the text of special tokens, read as plain text: {found.typed:,}")
        if found.anew:
            lines.append(
                f"{split}: conversations whose earlier answers the chat template renders anew, learned as they stand "
                f"in the whole conversation: {found.anew:,}"
            )
    if bad_media and opened.settings.bad_media != "error":
        lines.append(
            f"media files that cannot be used, their samples left out: {len(bad_media):,} ({bad_media[0]} ...)"
        )
    return [*lines, *_duplicate_remarks(opened)]


def _too_long_remark(split: str, found: Survey, opened: OpenedData) -> list[str]:
    if not found.too_long:
        return []
    number, settings = len(found.too_long), opened.settings
    named = ", ".join(found.too_long[:_SHOWN_IDS]) + (" ..." if number > _SHOWN_IDS else "")
    tried = "them" if found.tried == number else f"the first {found.tried:,}"
    return [
        f"{split}: samples longer than data.max_tokens ({settings.max_tokens:,}): {number:,} ({named}). "
        f"data.too_long is {settings.too_long}. drop leaves them out; cut-text keeps {found.cut:,} of {tried}, "
        f"{found.lost:,} tokens shorter, every picture and sound whole"
    ]


def _duplicate_remarks(opened: OpenedData) -> list[str]:
    lines = []
    for split, samples in opened.splits.items():
        if twice := within(samples):
            lines.append(f"{split}: samples that stand twice: {twice:,}")
    for (first, second), shared in between(opened.splits).items() if len(opened.splits) > 1 else ():
        if shared.samples:
            named = ", ".join(f"'{one}' = '{other}'" for one, other in shared.samples[:_SHOWN_IDS])
            lines.append(f"{first} and {second} share samples: {len(shared.samples):,} ({named})")
        if shared.media:
            lines.append(f"{first} and {second} share pictures or sounds, by content: {shared.media:,}")
    return lines
