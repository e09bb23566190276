"""The plan of a study: which runs there are, and which of them belong together.

Runs that differ in the rule or the rates only share seed, data order and weights to begin with, so they are pairs. A
cell of the grid with the rates of a start is that start's constant run; it is planned once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.errors import StudyError
from cotune.recipe import COMPONENT_MEDIUM, Recipe
from cotune.recipe.reading import parse_recipe
from cotune.studies.choices import CONSTANT, RuleChoice, Start, StudySettings
from cotune.training.coordination import rule_of

_POINTS = 20


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only."""

    rule: str
    start: Start
    measure_every: int


@dataclass(frozen=True)
class StudyPlan:
    """All cells of a study and the recipe of every run, by the name of its folder."""

    compared: tuple[Cell, ...]
    grid: tuple[Cell, ...]
    sweep: tuple[Cell, ...]
    seeds: tuple[int, ...]
    names: dict[tuple[Cell, int], str]
    recipes: dict[str, Recipe]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell once."""
        return tuple(dict.fromkeys((*self.compared, *self.grid, *self.sweep)))

    def constant(self, start: Start) -> Cell:
        """Return the cell that a rule is compared with: the same start, rates left alone."""
        return next(cell for cell in self.compared if cell.rule == CONSTANT and cell.start == start)


def make_plan(recipe: Recipe, settings: StudySettings, folder: Path) -> StudyPlan:
    """Return the plan of a study below `folder`.

    Raises:
        StudyError: when the recipe holds no samples out, or a rule needs measurements that the recipe does not make.
        ModelError: for a rule's option that is unknown or out of range.
        RecipeError: when a run's recipe is not valid.
    """
    _check(recipe, settings)
    every = recipe.coordination.measure_every
    compared = tuple(Cell(rule.label, start, every) for rule in settings.rules for start in settings.starts)
    grid = tuple(Cell(CONSTANT, Start(one, other), every) for one in settings.grid for other in settings.grid)
    sweep = tuple(
        Cell(rule.label, start, interval)
        for rule in settings.rules
        if rule.steers_by_balance
        for interval in settings.measure_every
        for start in settings.starts
    )
    rules = {rule.label: rule for rule in settings.rules}
    names, recipes = {}, {}
    for cell in dict.fromkeys((*compared, *grid, *sweep)):
        for seed in settings.seeds:
            name = names[cell, seed] = _run_name(rules[cell.rule], cell, seed)
            recipes[name] = _run_recipe(recipe, rules[cell.rule], cell, seed, settings, folder / "runs" / name)
    return StudyPlan(compared, grid, sweep, settings.seeds, names, recipes)


def _check(recipe: Recipe, settings: StudySettings) -> None:
    problems = []
    if not recipe.data.validation_share:
        problems.append("data.validation_share is 0: the held-out loss needs samples that are not learned from")
    blind = [rule.label for rule in settings.rules if rule.steers_by_balance]
    if blind and not recipe.coordination.measure_every:
        problems.append(f"coordination.measure_every is 0: {', '.join(blind)} steer by the balance")
    slugs = [_slug(rule.label) for rule in settings.rules]
    problems += [f"--rules: '{slug}' names two of them" for slug in sorted(set(slugs)) if slugs.count(slug) > 1]
    if problems:
        raise StudyError("the study cannot be planned", problems)
    for rule in settings.rules:
        rule_of(recipe.coordination.model_copy(update={"rule": rule.name, "options": _options(recipe, rule)}))


def _run_name(rule: RuleChoice, cell: Cell, seed: int) -> str:
    """Return the folder of a run; cells that are the same run have the same one."""
    rates = "" if rule.finds_rates_alone else f"_{cell.start.features:g}x{cell.start.language:g}"
    return f"{_slug(rule.label)}{rates}_every-{cell.measure_every}_seed-{seed}"


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", label)


def _options(recipe: Recipe, rule: RuleChoice) -> dict[str, Any]:
    """Return a rule's options: its own, else the recipe's where that names the same rule."""
    same = rule.name == recipe.coordination.rule and not rule.options
    return dict(recipe.coordination.options if same else rule.options)


def _run_recipe(
    recipe: Recipe, rule: RuleChoice, cell: Cell, seed: int, settings: StudySettings, folder: Path
) -> Recipe:
    """Return the recipe of one run: the study's, with the cell's rule and rates, watched by its held-out loss."""
    content = recipe.model_dump(mode="json")
    content |= {"name": f"{recipe.name}-{folder.name}", "seed": seed, "output": str(folder)}
    content["coordination"] |= {
        "rule": rule.name,
        "options": _options(recipe, rule),
        "measure_every": cell.measure_every,
    }
    content["evaluation"] |= {"held_out_loss": True, "text_retention": False, "tasks": [], "tasks_every": None}
    training = content["training"]
    training["steps"] = settings.steps or training["steps"]
    training["evaluate_every"] = settings.evaluate_every or -(-training["steps"] // _POINTS)
    if not rule.finds_rates_alone:
        for component, multiplier in _multipliers(recipe, cell.start).items():
            content["components"][component]["rate"] *= multiplier
    return parse_recipe(content, where=f"study: {folder.name}")


def _multipliers(recipe: Recipe, start: Start) -> dict[str, float]:
    """Return what each component's rate is multiplied by; the connector goes with the side it counts as."""
    connector = {"features": start.features, "language": start.language, "own": 1.0}[recipe.coordination.connector]
    return {**dict.fromkeys(COMPONENT_MEDIUM, start.features), "connector": connector, "llm": start.language}
