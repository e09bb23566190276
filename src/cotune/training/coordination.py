"""The coordinator a recipe describes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.optim import Optimizer

from cotune.coordination.components import Component
from cotune.coordination.coordinator import Coordinator, coordinated_sides
from cotune.coordination.diagnosis import Diagnosis
from cotune.coordination.fisher import FisherEstimate
from cotune.coordination.meter import BalanceMeter
from cotune.coordination.prodigy import ProdigyPerComponent
from cotune.coordination.regularizer import Regularizer
from cotune.coordination.regularizer_settings import RegularizerSettings
from cotune.coordination.report import DiagnosisSettings
from cotune.coordination.rules.constant import Constant
from cotune.coordination.schedules import PRODIGY, Rule, SelfTuning, rule_measured_with
from cotune.errors import RecipeError
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Recipe
from cotune.recipe.coordination import Coordination
from cotune.training.processes import ALONE, Processes


def make_coordinator(
    recipe: Recipe, model: MultimodalLM, found: Mapping[str, Component], optimizer: Optimizer
) -> Coordinator:
    """Return the coordinator of a run; the balance is measured where both sides have something that learns.

    Raises:
        RecipeError: when the rule steers by a balance that this recipe does not measure.
    """
    settings, training = recipe.coordination, recipe.training
    rule, regularizer = rule_of(settings), regularizer_settings(recipe)
    measured = bool(settings.measure_every) and bool(recipe.model.encoders.by_medium) and coordinated_sides(found)
    if not measured:
        _refuse_blind(rule, regularizer, recipe)
    return Coordinator(
        found,
        optimizer,
        rule=rule,
        base_rates=_base_rates(recipe, found),
        meter=BalanceMeter(model, found, divergence=settings.divergence) if measured else None,
        measure_every=settings.measure_every or 1,
        diagnosis=Diagnosis(diagnosis_settings(recipe)),
        estimate=FisherEstimate(found, optimizer) if settings.estimate and measured else None,
        regularizer=Regularizer(found, regularizer, optimizer=optimizer) if regularizer.weight else None,
        total_steps=training.steps,
    )


def rule_of(settings: Coordination) -> Rule:
    """Return the rule of a recipe; for Prodigy, which is an optimiser, the one that leaves its rates alone.

    Raises:
        ModelError: for an unknown rule or option, options out of range, or a library that is not installed.
    """
    if settings.rule != PRODIGY:
        return rule_measured_with(settings.divergence, settings.rule, settings.options)
    # Its options are checked where it is made; here on a stand-in, so that a slip is told before anything is loaded.
    ProdigyPerComponent([{"params": [torch.zeros(1)], "component": "none"}], **settings.options)
    return Constant()


def diagnosis_settings(recipe: Recipe) -> DiagnosisSettings:
    """Return the thresholds of a recipe's diagnosis; raises ModelError for those out of range."""
    return DiagnosisSettings(**recipe.coordination.diagnosis.model_dump(), warmup_steps=recipe.training.warmup_steps)


def regularizer_settings(recipe: Recipe) -> RegularizerSettings:
    """Return the settings of a recipe's regulariser; its weight ends with the run."""
    return RegularizerSettings(**recipe.coordination.regularizer.model_dump(), total_steps=recipe.training.steps)


def check_coordination(recipe: Recipe, processes: Processes = ALONE) -> None:
    """Refuse settings of a recipe's coordination that cannot be used, before anything is loaded.

    Raises:
        ModelError: as `rule_of` and `diagnosis_settings`.
        RecipeError: for a regulariser on several processes: a sample comes back to another one than remembers it, and
            a snapshot keeps one process's memory.
    """
    rule_of(recipe.coordination)
    diagnosis_settings(recipe)
    if processes.size > 1 and recipe.coordination.regularizer.weight:
        raise RecipeError(
            f"{processes.size} processes",
            ["coordination.regularizer remembers predictions in one process only; start one, or set its weight to 0"],
        )


def _base_rates(recipe: Recipe, found: Mapping[str, Component]) -> dict[str, float]:
    """Return the peak rates by component; none for Prodigy, which starts from its groups' own rate of 1."""
    if recipe.coordination.rule == PRODIGY:
        return {}
    return {name: float(getattr(recipe.components, name).rate) for name in found}


def _refuse_blind(rule: Rule, regularizer: RegularizerSettings, recipe: Recipe) -> None:
    """Refuse what needs a balance, where none is measured."""
    reason = (
        "coordination.measure_every is 0"
        if not recipe.coordination.measure_every
        else "one of the two sides has nothing that learns"
    )
    problems = []
    if not isinstance(rule, Constant | SelfTuning):
        problems.append(f"coordination.rule={recipe.coordination.rule} steers by the balance, but {reason}")
    if regularizer.weight and regularizer.reference == "probe":
        problems.append(f"coordination.regularizer.reference=probe looks ahead at measured steps, but {reason}")
    if problems:
        raise RecipeError("no balance to keep", problems)
