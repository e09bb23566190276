"""Everything a report knows of a run: the rows of its trace by event, its result, recipe and predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from cotune.errors import RunFolderError, first_line
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.tasks import read_predictions
from cotune.plain_yaml import load_yaml
from cotune.run_folder import RunFolder
from cotune.trace import Row, read_trace

# A run that has written nothing for so long has been stopped, or is scoring: nobody can tell from its files.
_SILENT = 180.0

State = Literal["finished", "under way", "stopped", "diverged"]


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says; whatever is missing or cannot be read is empty, and named in `problems`.

    `settings` is the recipe as plain values, not checked: an older cotune wrote other keys. `silent` is for how many
    seconds nothing has been written to the trace. `benchmarks` has the `evaluation/NAME/evaluation.json` by name.
    """

    folder: Path
    rows: Mapping[str, Sequence[Row]]
    result: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    predictions: Sequence[Prediction] = ()
    problems: Sequence[str] = ()
    silent: float = 0.0
    benchmarks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self.result.get("name") or self.start.get("name") or self.settings.get("name") or self.folder.name)

    @property
    def steps(self) -> Sequence[Row]:
        """The steps that were taken."""
        return self.rows.get("step", ())

    @cached_property
    def measured(self) -> list[Row]:
        """The steps whose balance was measured."""
        return [row for row in self.steps if "balance" in row]

    @property
    def start(self) -> Row:
        """What was announced at the start; empty for a run without it."""
        return self.newest("start")

    @property
    def last_step(self) -> int:
        """The number of the newest step, skipped ones included; 0 before the first."""
        return max((row["step"] for rows in self.rows.values() for row in rows), default=0)

    @property
    def wanted_steps(self) -> int | None:
        """How many steps the recipe asks for; None where that is not known."""
        found = self.setting("training", "steps")
        return int(found) if isinstance(found, int) else None

    @property
    def seconds(self) -> float:
        """Seconds from the start to the newest row."""
        return max((float(row.get("seconds", 0.0)) for rows in self.rows.values() for row in rows), default=0.0)

    @property
    def state(self) -> State:
        """How the run stands."""
        if self.result or "end" in self.rows:
            return "finished"
        stopped = self.newest("stopped")
        if stopped:
            return "diverged" if stopped.get("error") == "DivergedError" else "stopped"
        if self._skipped_at_end >= int(self.setting("training", "skipped_in_a_row") or 5):
            return "diverged"
        return "under way" if self.silent < _SILENT else "stopped"

    @property
    def _skipped_at_end(self) -> int:
        """How many steps were skipped since the last one that was taken."""
        taken = max((row["step"] for row in self.steps), default=0)
        return sum(row["step"] > taken for row in self.rows.get("skipped", ()))

    def newest(self, event: str) -> Row:
        """Return the newest row of an event; an empty one when there is none."""
        rows = self.rows.get(event)
        return rows[-1] if rows else {}

    def setting(self, *keys: str) -> Any:
        """Return a value of the recipe; None where it has none."""
        found: Any = self.settings
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def read_record(folder: Path) -> RunRecord:
    """Return what a run folder says, of a finished run or of any other.

    Raises:
        RunFolderError: when the folder is none of a run, or its trace is damaged (a cut last line is not damage).
    """
    run = RunFolder(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder; name a run folder, for example runs/quickstart")
    if not run.trace.exists() and not run.recipe.exists():
        raise RunFolderError(f"{folder} is not a run folder: it holds neither trace.jsonl nor recipe.yaml")
    rows: dict[str, list[Row]] = {}
    for row in read_trace(run.trace) if run.trace.exists() else ():
        rows.setdefault(row["event"], []).append(row)
    problems: list[str] = [] if rows else [f"{run.trace.name} is not there or empty: no step was taken"]
    recipe, settings = _recipe(run, problems)
    return RunRecord(
        folder,
        rows,
        _object(run.result, problems),
        recipe,
        settings,
        _predictions(folder, problems),
        problems,
        max(0.0, time.time() - run.trace.stat().st_mtime) if run.trace.exists() else float("inf"),
        {file.parent.name: _object(file, problems) for file in sorted(folder.glob("evaluation/*/evaluation.json"))},
    )


def _recipe(run: RunFolder, problems: list[str]) -> tuple[str, Mapping[str, Any]]:
    try:
        text = run.recipe.read_text(encoding="utf-8")
        content = load_yaml(text)
    except FileNotFoundError:
        problems.append(f"{run.recipe.name} is not there: what the run was asked to do is not known")
        return "", {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{run.recipe.name} cannot be read: {first_line(error)}")
        return "", {}
    return text, content if isinstance(content, Mapping) else {}


def _object(file: Path, problems: list[str]) -> Mapping[str, Any]:
    """Return the object a JSON file holds; an empty one where there is none, and a problem where it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {first_line(error)}")
        return {}
    return content if isinstance(content, Mapping) else {}


def _predictions(folder: Path, problems: list[str]) -> Sequence[Prediction]:
    file = folder / "predictions.jsonl"
    if not file.exists():
        return ()
    try:
        return read_predictions(file)
    except (OSError, ValueError, TypeError) as error:
        # Answers are written batch by batch: while a run is being scored they may end in half a line.
        if RunFolder(folder).result.exists():
            problems.append(f"{file.name} cannot be read: {first_line(error)}")
        return ()
