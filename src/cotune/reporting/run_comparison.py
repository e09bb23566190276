"""Runs side by side: one table with intervals, for the screen, as Markdown and as JSON, and a picture of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cotune.errors import DataError, RunFolderError
from cotune.evaluation.comparison import Value, compare, pair
from cotune.evaluation.paper_numbers import PaperRow, paper_rows, sources
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.score_tables import MAIN
from cotune.evaluation.tasks import TASKS, check_task, read_predictions
from cotune.progress import progress, table
from cotune.reporting.comparison_figure import draw_comparison
from cotune.run_folder import open_run, short_names
from cotune.whole_file import write_whole

COLUMNS = ("metric", "run", "value [95%]", "difference [95%]")
_MARK = " *"


@dataclass(frozen=True)
class RunComparison:
    """What `cotune compare` found: the metrics by run, on how many samples, and what papers report on the task."""

    task: str
    samples: int
    units: int
    resamples: int
    left_out: Mapping[str, int]
    metrics: Mapping[str, Sequence[Value]]
    paper: tuple[PaperRow, ...]

    @property
    def rows(self) -> list[list[str]]:
        """The table: every metric by run, then what the papers report of it."""
        result, main = [], TASKS[self.task].main
        for metric in sorted(self.metrics, key=lambda name: name != main):
            title = metric + (MAIN if metric == main else "")
            for index, value in enumerate(self.metrics[metric]):
                result.append([title if index == 0 else "", *_cells(value)])
            for row in self.paper:
                number = row.value(metric)
                if number is not None:
                    result.append(["", row.label, _number(number), ""])
        return result

    @property
    def notes(self) -> list[str]:
        """What the table rests on."""
        first = next(iter(self.left_out))
        notes = [
            f"{self.samples} samples that all runs answered, about {self.units} pictures, sounds or texts; differences "
            f"are from {first}, on the same samples. Intervals: paired percentile bootstrap, {self.resamples} "
            "resamples, what is about one picture drawn together. They hold the luck of the test set, not of the seed "
            "a run was trained with.",
            f"{_MARK.strip()} the interval of the difference leaves zero out; with {len(self.metrics)} metrics, about "
            "one in twenty does so by chance.",
        ]
        notes += [
            f"{name}: {count} samples left out, as others lack them" for name, count in self.left_out.items() if count
        ]
        shown = [row for row in self.paper if any(row.value(metric) is not None for metric in self.metrics)]
        return notes + [f"paper: {line}; other models and data than these runs" for line in sources(shown)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        content = asdict(self) | {"paper": [row.model_dump() for row in self.paper]}
        content |= {"main_score": TASKS[self.task].main}
        return content | {"notes": self.notes}

    def markdown(self) -> str:
        """Return the table and its notes as Markdown."""
        lines = [COLUMNS, ["---", "---", "---:", "---:"], *self.rows]
        grid = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"# {' against '.join(self.left_out)}: {self.task}\n\n{grid}\n\n{notes}\n"


def compare_runs(
    folders: Sequence[Path], console: Console, *, resamples: int = 1000, task: str | None = None
) -> RunComparison:
    """Return how the predictions in some folders compare, the first one's against each other one's.

    Raises:
        DataError: for fewer than two folders, and for predictions that cannot be paired.
        RunFolderError: for a folder without predictions, and for runs that were scored on different tasks.
    """
    if len(folders) < 2:
        raise DataError("nothing to compare", ["name at least two run folders"])
    names = short_names(folders)
    places = [answers_folder(folder, task) for folder in folders]
    tasks = {name: _task(folder) for name, folder in zip(names, places, strict=True)}
    if len(set(tasks.values())) > 1:
        told = ", ".join(f"{name}: {task}" for name, task in tasks.items())
        raise RunFolderError(f"runs of different tasks cannot be compared ({told})")
    task = tasks[names[0]]
    check_task(task)
    pairs = pair({name: predictions_of(folder) for name, folder in zip(names, places, strict=True)})
    with progress(console, "Resampling", resamples, "resamples") as advance:
        metrics = compare(task, pairs, resamples=resamples, advance=advance)
    units = len(pairs.units)
    return RunComparison(task, pairs.samples, units, resamples, pairs.left_out, metrics, paper_rows(task))


def print_comparison(found: RunComparison, console: Console) -> None:
    """Print the table and what it rests on."""
    console.print(table(f"{found.task}: {found.samples} samples", COLUMNS, found.rows))
    for note in found.notes:
        console.print(note, markup=False)


def write_comparison(found: RunComparison, folder: Path) -> list[Path]:
    """Write `compare.md`, `compare.json` and `compare.png` and return the files."""
    files = [folder / f"compare.{ending}" for ending in ("md", "json", "png")]
    write_whole(files[0], found.markdown())
    write_whole(files[1], json.dumps(found.to_dict(), indent=2) + "\n")
    draw_comparison(found.metrics, files[2])
    return files


def _task(folder: Path) -> str:
    """Return what the predictions of a folder were scored by: what its evaluation says, else its recipe."""
    evaluation = folder / "evaluation.json"
    if evaluation.exists():
        try:
            return str(json.loads(evaluation.read_text(encoding="utf-8"))["settings"]["task"])
        except (ValueError, KeyError, TypeError):
            raise RunFolderError(f"{evaluation} does not say which task it is of; it is damaged") from None
    return open_run(folder)[1].evaluation.task


def answers_folder(run: Path, task: str | None = None) -> Path:
    """Return where the answers of a run to a task lie: in `evaluation/TASK`, or in the run folder itself.

    Raises:
        RunFolderError: when there are none, or those of several tasks and none is named.
    """
    made = {file.parent.name: file.parent for file in sorted(run.glob("evaluation/*/predictions.jsonl"))}
    if task is not None and task in made:
        return made[task]
    if (run / "predictions.jsonl").exists() and task in (None, _task(run)):
        return run
    if task is None and len(made) == 1:
        return next(iter(made.values()))
    if task is None and made:
        raise RunFolderError(f"{run} holds answers to several tasks ({', '.join(made)}); choose one by --task")
    raise RunFolderError(
        f"{run} holds no predictions{f' of {task}' if task else ''}; make them with: cotune evaluate {run}"
    )


def predictions_of(folder: Path) -> list[Prediction]:
    """Return the predictions in a folder; raises RunFolderError when it holds none, or damaged ones."""
    file = folder / "predictions.jsonl"
    try:
        return read_predictions(file)
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); make it again with: cotune evaluate {folder}") from None


def _cells(value: Value) -> list[str]:
    difference = _number(value.difference, "+", value.difference_interval)
    return [value.run, _number(value.value, "", value.interval), difference + (_MARK if value.apart else "")]


def _number(value: float | None, sign: str = "", interval: tuple[float, float] | None = None) -> str:
    """Return a score to three places, sums of points to one, with its interval behind it."""
    if value is None:
        return "" if sign else "-"
    places = f"{sign}.3f" if abs(value) < 10 else f"{sign}.1f"
    inside = "" if interval is None else f" [{interval[0]:{places}}, {interval[1]:{places}}]"
    return f"{value:{places}}{inside}"
