"""A study from recipe to table: plan, run what is missing, compare, write everything down."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cotune.progress import table
from cotune.recipe import Recipe
from cotune.reporting.study_figures import Curve, draw_loss_curves, draw_regrets, draw_sweep
from cotune.run_folder import RunFolder
from cotune.studies.choices import Start, StudySettings
from cotune.studies.comparison import Comparison, Outcomes, Row, compare
from cotune.studies.outcome import Outcome, read_outcome
from cotune.studies.plan import Cell, StudyPlan, make_plan
from cotune.studies.runner import bring_all_to_end, unfinished
from cotune.studies.tables import (
    SCREEN,
    SWEEP,
    as_csv,
    as_json,
    as_markdown,
    grid_table,
    reading,
    table_rows,
)
from cotune.training.versions import versions
from cotune.whole_file import write_whole


def run_study(recipe: Recipe, settings: StudySettings, folder: Path, console: Console, *, jobs: int = 1) -> Comparison:
    """Return the comparison of a study, which lies in `folder` as table and pictures; finished runs are kept.

    Raises:
        StudyError: when it cannot be planned, or runs failed.
        StudyStoppedError: after Ctrl-C; the same call goes on.
        RunFolderError: when the folder holds runs of another study.
    """
    plan = make_plan(recipe, settings, folder)
    announce(plan, console)
    bring_all_to_end(plan.recipes, folder, console, jobs=jobs)
    outcomes = read_outcomes(plan)
    comparison = compare(plan, outcomes)
    _show(comparison, console)
    _write(recipe, plan, outcomes, comparison, folder, jobs)
    _draw(plan, outcomes, comparison, folder)
    console.print(f"With seconds, flags and intervals: {folder / 'study.md'}, study.csv, study.json", soft_wrap=True)
    return comparison


def announce(plan: StudyPlan, console: Console) -> None:
    """Print how many runs a study has and how many of them are left."""
    steps = next(iter(plan.recipes.values())).training.steps
    left = len(unfinished(plan.recipes))
    console.print(f"{len(plan.recipes)} runs of {steps} steps, {left} of them left to do", soft_wrap=True)


def read_outcomes(plan: StudyPlan) -> dict[tuple[Cell, int], Outcome]:
    """Return the outcome of every cell and seed; cells that share a run share its outcome."""
    read = {name: read_outcome(RunFolder(recipe.folder)) for name, recipe in plan.recipes.items()}
    return {key: read[name] for key, name in plan.names.items()}


def _show(comparison: Comparison, console: Console) -> None:
    console.print(_grid("Study (change: held-out loss against the constant rule)", SCREEN, comparison.rows))
    if comparison.sweep:
        console.print(_grid("How often kappa is measured", SWEEP, comparison.sweep))
    if comparison.grid:
        head, rows = grid_table(comparison)
        console.print(table("Grid of constant rates: held-out loss", head, rows))
    for line in reading(comparison):
        console.print(line.removeprefix("- "))


def _grid(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Any:
    """Return the table for the screen; only the rule's name gives way where it is narrow."""
    made = table(title, columns, table_rows(rows, columns))
    made.columns[0].overflow = "fold"
    for column in made.columns[1:]:
        column.no_wrap = True
    return made


def _write(
    recipe: Recipe, plan: StudyPlan, outcomes: Outcomes, comparison: Comparison, folder: Path, jobs: int
) -> None:
    steps = next(iter(plan.recipes.values())).training.steps
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()}
    title = f"{recipe.name}: {len(plan.recipes)} runs of {steps} steps"
    notes = [f"{machine['cores']} cores, {jobs} runs at once; seconds of runs side by side are longer than alone."]
    write_whole(folder / "study.md", as_markdown(comparison, title, notes))
    write_whole(folder / "study.csv", as_csv(comparison))
    runs = {plan.names[key]: _run_record(*key, outcome) for key, outcome in outcomes.items()}
    more = {"recipe": recipe.name, "steps": steps, "machine": machine, "jobs": jobs, "versions": versions()}
    write_whole(folder / "study.json", as_json(comparison, runs=runs, **more))


def _run_record(cell: Cell, seed: int, outcome: Outcome) -> dict[str, Any]:
    """Return what the JSON keeps of a run, enough to compute every number of the table again."""
    return {
        "rule": cell.rule,
        "start": cell.start.label,
        "measure_every": cell.measure_every,
        "seed": seed,
        "loss": outcome.loss,
        "score": outcome.score,
        "diverged": outcome.diverged,
        "curve": [[point.step, round(point.seconds, 3), point.loss] for point in outcome.curve],
    }


def _draw(plan: StudyPlan, outcomes: Outcomes, comparison: Comparison, folder: Path) -> None:
    """Draw regrets where there is a grid, loss curves always, the sweep where there is one."""
    best = _best_cell(plan, comparison)
    by_start: dict[str, dict[str, list[Curve]]] = {}
    regrets: dict[str, dict[str, list[float]]] = {}
    for cell in plan.compared:
        by_start.setdefault(cell.start.label, {})[cell.rule] = _curves(cell, plan, outcomes)
        if best is not None:
            regrets.setdefault(cell.rule, {})[cell.start.label] = [
                outcomes[cell, seed].loss - outcomes[best, seed].loss for seed in plan.seeds
            ]
    draw_loss_curves(by_start, _curves(best, plan, outcomes) if best else [], folder / "curves.png")
    if regrets:
        draw_regrets(regrets, folder / "regret.png")
    if comparison.sweep:
        draw_sweep(_sweep_points(comparison), folder / "measure_every.png")


def _best_cell(plan: StudyPlan, comparison: Comparison) -> Cell | None:
    found = comparison.best
    start = None if found is None else Start(found.features, found.language)
    return next((cell for cell in plan.grid if cell.start == start), None)


def _curves(cell: Cell, plan: StudyPlan, outcomes: Outcomes) -> list[Curve]:
    return [[(point.step, point.loss) for point in outcomes[cell, seed].curve] for seed in plan.seeds]


def _sweep_points(comparison: Comparison) -> Mapping[str, list[tuple[int, float]]]:
    points: dict[str, list[tuple[int, float]]] = {}
    for row in comparison.sweep:
        points.setdefault(row.rule, []).append((row.measure_every, row.loss))
    return points
