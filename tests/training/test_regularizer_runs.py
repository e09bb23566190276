"""The regulariser in cotune's own training: what it may not break, what a recipe may not ask for, and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from cotune.coordination.regularizer_settings import DECAYS, FORMS, REFERENCES, RegularizerSettings
from cotune.coordination.report import DiagnosisSettings
from cotune.errors import ModelError, RecipeError
from cotune.recipe.coordination import Diagnosis, Regularizer
from cotune.recipe.reading import parse_recipe
from cotune.trace import read_trace
from cotune.training.coordination import check_coordination, diagnosis_settings, regularizer_settings
from cotune.training.loop import TrainingLoop
from cotune.training.processes import Processes
from cotune.training.run import prepare_training
from tests.tiny import tiny_recipe
from tests.training.test_loop import kill_after, make_loop, run, weights

# Eight samples, four a step: every sample is seen again two or three steps later.
FEW = ("data.train.0.limit=8", "data.validation_share=0", "training.steps=8", "coordination.measure_every=2")
ON = "coordination.regularizer.weight=20"
REFERENCED = {
    "last_epoch": (),
    "repeat": (),
    "accum": ("training.micro_batch_size=2",),
    "probe": (),
}


def regularized(root: Path, name: str, *overrides: str) -> TrainingLoop:
    return make_loop(tiny_recipe(root, *FEW, *overrides, f"output={root}/{name}"))


def steps(loop: TrainingLoop) -> list[dict[str, Any]]:
    return list(read_trace(loop.run_folder.trace, "step"))


def same(first: TrainingLoop, second: TrainingLoop) -> bool:
    return all(tensor.equal(weights(second)[name]) for name, tensor in weights(first).items())


def test_off_it_changes_no_bit_whatever_else_is_set(root: Path) -> None:
    off = regularized(root, "off", "coordination.regularizer={weight: 0, reference: repeat, form: js}")
    without, on = regularized(root, "without"), regularized(root, "on", ON)
    for loop in (off, without, on):
        run(loop)
    assert same(off, without) and not same(on, without)
    assert not any("regularizer" in row for row in steps(off))


def test_the_estimate_changes_no_bit_and_stands_in_every_row(root: Path) -> None:
    with_it, without = regularized(root, "with", "coordination.estimate=true"), regularized(root, "without")
    run(with_it)
    run(without)
    assert same(with_it, without)
    assert all(isinstance(row["log_kappa_estimate"], float) for row in steps(with_it))
    assert not any("log_kappa_estimate" in row for row in steps(without))
    estimate = with_it.coordinator.every_step.estimate
    assert estimate is not None and estimate.calibrations == 4


@pytest.mark.parametrize("reference", list(REFERENCED))
def test_with_the_cap_every_component_still_goes_down_the_tasks_loss(
    root: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<g, g + s> >= (1 - cap) |g|^2 on the gradients of the real loop, in the metric of AdamW's update."""
    cap = 0.4
    options = (f"coordination.regularizer={{weight: 1e4, reference: {reference}, cap: {cap}}}", *REFERENCED[reference])
    loop = regularized(root, "run", *options)
    regularizer = loop.coordinator.every_step.regularizer
    assert regularizer is not None
    apply, added = regularizer.apply, 0

    def watched(*arguments: Any) -> dict[str, Any]:
        nonlocal added
        parts = {name: part.trainable for name, part in loop.components.items()}
        task = {name: [value.grad.clone() for value in part] for name, part in parts.items()}
        row = apply(*arguments)
        for name in row["components"]:
            scales = [1 / (_moment(loop, value).sqrt() + 1e-8) for value in parts[name]]
            both = [value.grad for value in parts[name]]
            product, square = (
                sum(float((a.double() * b * s).sum()) for a, b, s in zip(task[name], other, scales, strict=True))
                for other in (both, task[name])
            )
            assert product >= (1 - cap) * square * (1 - 1e-4)
            added += any(not a.equal(b) for a, b in zip(task[name], both, strict=True))
        return row

    monkeypatch.setattr(regularizer, "apply", watched)
    run(loop)
    assert added >= 6
    capped = loop.coordinator.summary()["regularizer"]["components"]
    assert {name for name, part in capped.items() if part["capped_share"] > 0} == {"vision", "connector", "llm"}


def _moment(loop: TrainingLoop, value: torch.nn.Parameter) -> torch.Tensor:
    """Return AdamW's second moment of a parameter; ones before its first step, when norms are plain."""
    found: torch.Tensor = loop.optimizer.state.get(value, {}).get("exp_avg_sq", torch.ones_like(value))
    return found


@pytest.mark.parametrize("stop_after", [3, 4])
@pytest.mark.parametrize("reference", list(REFERENCED))
def test_a_resumed_run_ends_with_the_same_bits(root: Path, reference: str, stop_after: int) -> None:
    options = (ON, f"coordination.regularizer.reference={reference}", "coordination.estimate=true")
    options += (*REFERENCED[reference], f"training.snapshot_every={stop_after}")
    whole = regularized(root, "whole", *options)
    run(whole)
    cut = regularized(root, "cut", *options)
    kill_after(cut, stop_after + 1)
    with pytest.raises(RuntimeError, match="killed"):
        run(cut)
    again = regularized(root, "cut", *options)
    assert again.resume() and again.step == stop_after
    run(again)
    assert same(again, whole)
    timeless = [[_timeless(row) for row in steps(loop)[-(8 - stop_after) :]] for loop in (again, whole)]
    assert timeless[0] == timeless[1]
    counts = [loop.coordinator.summary()["regularizer"] | {"seconds": 0} for loop in (again, whole)]
    assert counts[0] == counts[1] and counts[0]["components"]


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    """Return what of a step's row has nothing to do with a clock."""
    kept = {name: row[name] for name in ("step", "loss", "rates", "log_kappa_estimate", "gradient_norms")}
    return kept | {"components": row.get("regularizer", {}).get("components")}


@pytest.mark.parametrize("size", [1, 3])
def test_it_adds_the_same_however_a_batch_is_cut(root: Path, size: int) -> None:
    """Both loops stand at the same weights: the tiny encoder's gradients are so small that runs part by rounding."""
    whole, cut = regularized(root, "whole", ON), regularized(root, "cut", ON, f"training.micro_batch_size={size}")
    rows = []
    for loop in (whole, cut):
        encoded = loop.stream.take(1)
        for _ in range(2):
            loop.optimizer.zero_grad()
            loop.passes.backward(encoded)
            loop.coordinator.before_step(1.0)
            with torch.no_grad():
                generator = torch.Generator().manual_seed(0)
                for part in loop.components.values():
                    for value in part.trainable:
                        value += 0.05 * torch.randn(value.shape, generator=generator)
        rows.append(loop.coordinator.row["regularizer"])
    assert rows[0]["recalled"] == rows[1]["recalled"] == 4
    for name in ("connector", "llm"):
        one, other = (row["components"][name] for row in rows)
        assert other["change"] == pytest.approx(one["change"], rel=1e-4)
        assert other["ratio"] == pytest.approx(one["ratio"], rel=1e-3)


def test_it_moves_predictions_away_from_those_of_the_last_visit(root: Path) -> None:
    loop = regularized(root, "run", "coordination.regularizer={weight: 50, cap: null, target: 1}")
    encoded = loop.stream.take(1)
    before = _predict(loop, encoded)
    for _ in range(2):  # the second time there is something to compare with
        loop.optimizer.zero_grad()
        loop.passes.backward(encoded)
        task = [[value.grad.clone() for value in part.trainable] for part in loop.components.values()]
        loop.coordinator.before_step(1.0)
        with torch.no_grad():
            for part in loop.components.values():
                for value in part.trainable:
                    value += 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    now = _predict(loop, encoded)
    with torch.no_grad():  # along what was added alone
        for part, gradients in zip(loop.components.values(), task, strict=True):
            for value, gradient in zip(part.trainable, gradients, strict=True):
                value -= 1e-4 * (value.grad - gradient)
    after = _predict(loop, encoded)
    divergences = [functional.kl_div(found, before, log_target=True, reduction="sum") for found in (now, after)]
    assert divergences[1] > divergences[0]


@torch.no_grad()
def _predict(loop: TrainingLoop, encoded: Any) -> torch.Tensor:
    from cotune.data.collate import collate

    logits, _ = loop.model(collate(encoded, loop.model.template.filler, loop.loaders))
    found: torch.Tensor = logits.double().log_softmax(-1)
    return found


def test_batches_are_shown_again_as_the_reference_asks(root: Path) -> None:
    names = {}
    for reference, more in REFERENCED.items():
        loop = regularized(root, reference, ON, f"coordination.regularizer.reference={reference}", *more)
        names[reference] = [[item.sample.id for item in loop.stream.take(1)] for _ in range(4)]
    plain = names["last_epoch"]
    assert names["probe"] == plain
    assert names["repeat"] == [plain[0], plain[0], plain[1], plain[1]]
    assert names["accum"] == [plain[0], *(plain[n][-2:] + plain[n + 1] for n in range(3))]


def test_samples_that_never_come_round_again_are_told_of(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, ON, "training.steps=3"))
    run(loop)
    summary = loop.coordinator.summary()
    assert (summary["regularizer"]["seen"], summary["regularizer"]["compared"]) == (12, 0)
    assert any("The regulariser has added nothing in this run" in said for said in summary["sentences"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["coordination.regularizer.reference=current"], "has a gradient of exactly zero, and the regulariser would"),
        ([ON, "coordination.regularizer.warmup_steps=6"], r"warmup_steps \(6\) must be below training.steps \(6\)"),
        ([ON, "coordination.regularizer.reference=accum"], "set training.micro_batch_size"),
        (
            [ON, "coordination.regularizer.reference=probe", "coordination.measure_every=0"],
            "reference=probe looks ahead at measured steps, and coordination.measure_every is 0",
        ),
        ([ON, "model.llm.adapters.dropout=0.1"], r"set model\.llm\.adapters\.dropout=0"),
        (["coordination.regularizer.cap=1"], r"coordination\.regularizer\.cap: .*less than 1"),
        (["coordination.regularizer.weigth=1"], r"unknown key; did you mean 'weight'"),
        (["coordination.regularizer.form=kl"], r"'saturating', 'js' or 'unbounded'"),
        (["coordination.diagnosis.bias=3"], r"unknown key; did you mean 'biased'"),
    ],
)
def test_a_recipe_under_which_it_would_do_nothing_or_harm_is_refused(
    root: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        tiny_recipe(root, *overrides)


def test_looking_ahead_without_two_sides_that_learn_is_refused(root: Path) -> None:
    frozen = ("components.vision.tune=frozen", "components.connector.tune=frozen")
    with pytest.raises(RecipeError, match=r"regularizer\.reference=probe looks ahead.*nothing that learns"):
        regularized(root, "run", ON, "coordination.regularizer.reference=probe", *frozen)


def test_several_processes_are_refused_with_the_reason(root: Path) -> None:
    with pytest.raises(RecipeError, match=r"2 processes.*(\n.*)*remembers predictions in one process only"):
        check_coordination(tiny_recipe(root, ON), Processes(size=2))
    check_coordination(tiny_recipe(root), Processes(size=2))


def test_thresholds_out_of_range_are_refused_before_any_weight_is_read(root: Path) -> None:
    from rich.console import Console

    recipe = tiny_recipe(
        root, "coordination.diagnosis={biased: 0.5, opposed: 1}", "model.llm.path=nowhere", "data.train.0.path=nowhere"
    )
    with pytest.raises(ModelError, match=r"diagnosis: out of range: biased=0\.5, opposed=1"):
        prepare_training(recipe, Console())


def test_thresholds_of_the_recipe_are_those_of_the_run(root: Path) -> None:
    loop = regularized(root, "run", "coordination.diagnosis={biased: 9, window: 2}")
    assert loop.coordinator.measured.diagnosis.settings == DiagnosisSettings(biased=9, window=2, warmup_steps=1)


def test_the_recipes_sections_have_the_options_and_defaults_of_what_they_set(root: Path) -> None:
    recipe = tiny_recipe(root)
    assert regularizer_settings(recipe) == RegularizerSettings(total_steps=recipe.training.steps)
    assert diagnosis_settings(recipe) == DiagnosisSettings(warmup_steps=recipe.training.warmup_steps)
    assert {*Regularizer.model_fields, "total_steps"} == set(vars(RegularizerSettings()))
    assert {*Diagnosis.model_fields, "warmup_steps", "log_limit"} == set(vars(DiagnosisSettings()))
    for key, table in (("form", FORMS), ("reference", REFERENCES), ("decay", DECAYS)):
        for name in table:
            content = recipe.model_dump(mode="json")
            content["coordination"]["regularizer"][key] = name
            assert getattr(parse_recipe(content).coordination.regularizer, key) == name


def test_predictions_that_are_no_numbers_cost_a_measurement_and_not_the_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = regularized(root, "run", "coordination.measure_every=2")
    predict = loop.passes.predict

    def broken(batch: Any) -> Any:
        logits, targets, rows = predict(batch)
        return (logits * float("nan") if loop.coordinator.step == 4 else logits), targets, rows

    monkeypatch.setattr(loop.passes, "predict", broken)
    run(loop)
    summary = loop.coordinator.summary()
    assert (summary["measurements"], summary["rejected"]) == (4, 1)
    assert summary["rejected_for"] == {"the predictions are not finite": 1}
    assert loop.step == 8
