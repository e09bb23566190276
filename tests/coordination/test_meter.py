"""The meter against a plain computation on copies of the model, and everything that must stay as it was."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cotune.coordination.balance import Balance
from cotune.coordination.components import components
from cotune.coordination.divergence import DIVERGENCES
from cotune.coordination.meter import BalanceMeter
from cotune.coordination.predictions import Predictions, as_predictions
from cotune.errors import BalanceError, ModelError
from tests.coordination.toy import Batch, Toy, forward_of, found, mixture, naive_mean, toy, toy_batch, training_step

FEATURES = {"vision", "connector"}


def measured(
    model: Toy, probes: list[Batch] | None = None, rates: dict[str, float] | None = None, **options: Any
) -> tuple[Balance, nn.Module, BalanceMeter]:
    """Return the balance of one training step, the model before that step, and the meter."""
    meter = BalanceMeter(model, found(model), **{"floor": 0.0} | options)
    step = training_step(model, toy_batch(16, seed=9, dtype=next(model.parameters()).dtype), rates)
    before = copy.deepcopy(model)
    meter.before_step()
    step()
    return meter.measure(forward_of(model), probes or [toy_batch()]), before, meter


@pytest.mark.parametrize("kind", list(DIVERGENCES))
@pytest.mark.parametrize("reduction", ["sample", "token"])
def test_log_kappa_is_that_of_three_copies_of_the_model(kind: str, reduction: str) -> None:
    model, (inputs, targets) = toy(), toy_batch()
    balance, before, _ = measured(model, divergence=kind, reduction=reduction)
    base, language, features = (mixture(before, model, names)(inputs) for names in (set(), {"llm"}, FEATURES))
    expected = [naive_mean(base, after, targets, kind, reduction) for after in (features, language)]
    assert list(balance.divergence.values()) == pytest.approx(expected, rel=1e-5)
    assert balance.log_kappa == pytest.approx(math.log(expected[1] / expected[0]), abs=1e-5)
    assert (balance.forwards, balance.tokens) == (3, int((targets != -100).sum()))
    assert balance.exponent == (1 if kind in ("tv", "hellinger") else 2)
    assert balance.seconds > 0


def test_losses_are_those_of_the_same_three_models() -> None:
    model, (inputs, targets) = toy(), toy_batch()
    balance, before, _ = measured(model, reduction="token")
    for name, names in {"base": set(), "features": FEATURES, "language": {"llm"}}.items():
        logits = mixture(before, model, set(names))(inputs)
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert balance.losses[name] == pytest.approx(expected.item()), name
    assert balance.loss_changes["language"] == pytest.approx(balance.losses["language"] - balance.losses["base"])


def test_a_mask_gives_the_balance_without_losses() -> None:
    expected, _, _ = measured(toy())
    inputs, targets = toy_batch()
    balance, _, _ = measured(toy(), [(inputs, targets != -100)])
    assert balance.losses == {}
    assert balance.log_kappa == expected.log_kappa


def test_positions_without_loss_are_never_looked_at() -> None:
    model = toy()
    expected, _, _ = measured(toy())
    meter = BalanceMeter(model, found(model), floor=0.0)
    step = training_step(model, toy_batch(16, seed=9))

    def forward(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits, targets = forward_of(model)(batch)
        return logits.masked_fill((targets == -100).unsqueeze(-1), math.nan), targets

    meter.before_step()
    step()
    assert meter.measure(forward, [toy_batch()]).log_kappa == expected.log_kappa


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(1, 5), max_size=3, unique=True))
def test_micro_batches_give_what_the_whole_gives(cuts: list[int]) -> None:
    inputs, targets = toy_batch()
    edges = [0, *sorted(cuts), len(inputs)]
    pieces = [(inputs[a:b], targets[a:b]) for a, b in pairwise(edges)]
    whole, _, _ = measured(toy(), interaction=True)
    parts, _, _ = measured(toy(), pieces, interaction=True)
    assert parts.log_kappa == pytest.approx(whole.log_kappa, abs=1e-9)
    assert parts.divergence == pytest.approx(whole.divergence)
    assert parts.losses == pytest.approx(whole.losses)
    assert parts.interaction == pytest.approx(whole.interaction)
    assert parts.tokens == whole.tokens


@pytest.mark.parametrize("kind", list(DIVERGENCES))
def test_a_ten_times_longer_step_of_one_side_changes_kappa_by_ten_to_the_exponent(kind: str) -> None:
    # Without momentum or decay that differs, ten times the rate is ten times the step.
    rates = dict.fromkeys(["vision", "connector", "llm"], 1e-4)
    short, _, _ = measured(toy(), rates=rates, divergence=kind)
    long, _, _ = measured(toy(), rates=rates | {"llm": 1e-3}, divergence=kind)
    factor = 10.0 ** DIVERGENCES[kind].exponent
    assert long.divergence["language"] / short.divergence["language"] == pytest.approx(factor, rel=0.05)
    assert math.exp(long.log_kappa - short.log_kappa) == pytest.approx(factor, rel=0.05)


def test_exchanging_the_sides_names_turns_kappa_over() -> None:
    model = toy()
    sides = {"vision": "language", "connector": "language", "llm": "features"}
    exchanged = {
        name: type(part)(name, part.named, part.total, sides[name])  # type: ignore[arg-type]
        for name, part in found(model).items()
    }
    meter = BalanceMeter(model, exchanged, floor=0.0)
    step = training_step(model, toy_batch(16, seed=9))
    meter.before_step()
    step()
    turned = meter.measure(forward_of(model), [toy_batch()])
    assert turned.log_kappa == pytest.approx(-measured(toy())[0].log_kappa, abs=1e-12)


@pytest.mark.parametrize("frozen", [{"llm"}, FEATURES])
def test_a_frozen_side_gives_an_infinite_log_kappa_for_one_forward_less(frozen: set[str]) -> None:
    model = toy()
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    balance, _, meter = measured(model, interaction=True)
    assert balance.log_kappa == (-math.inf if frozen == {"llm"} else math.inf)
    still = "language" if frozen == {"llm"} else "features"
    assert balance.divergence[still] == 0.0
    assert balance.losses[still] == balance.losses["base"]
    assert balance.interaction is None
    assert (balance.forwards, meter.rejected.total()) == (2, 0)


def test_every_component_can_be_measured_and_those_of_the_same_parts_share_a_forward() -> None:
    model, (inputs, targets) = toy(), toy_batch()
    balance, before, _ = measured(model, per_component=True)
    assert list(balance.divergence) == ["features", "language", "vision", "connector", "llm"]
    base = mixture(before, model, set())(inputs)
    for name in ("vision", "connector", "llm"):
        after = mixture(before, model, {name})(inputs)
        assert balance.divergence[name] == pytest.approx(naive_mean(base, after, targets, "kl"), rel=1e-5)
    assert balance.divergence["llm"] == balance.divergence["language"]
    assert balance.losses["llm"] == balance.losses["language"]
    assert balance.forwards == 5  # before, features, language, vision, connector


def test_a_connector_of_its_own_is_in_neither_side() -> None:
    model, (inputs, targets) = toy(), toy_batch()
    meter = BalanceMeter(model, components(model, connector="own"))
    step = training_step(model, toy_batch(16, seed=9))
    before = copy.deepcopy(model)
    meter.before_step()
    step()
    balance = meter.measure(forward_of(model), [toy_batch()])
    base = mixture(before, model, set())(inputs)
    for part, name in {"features": "vision", "language": "llm", "connector": "connector"}.items():
        expected = naive_mean(base, mixture(before, model, {name})(inputs), targets, "kl")
        assert balance.divergence[part] == pytest.approx(expected, rel=1e-5)


def test_the_interaction_is_that_of_both_steps_together() -> None:
    model, (inputs, targets) = toy(), toy_batch()
    balance, before, _ = measured(model, interaction=True)
    base = mixture(before, model, set())(inputs)
    features, language, both = (
        naive_mean(base, mixture(before, model, names)(inputs), targets, "kl")
        for names in (FEATURES, {"llm"}, {"vision", "connector", "llm"})
    )
    assert balance.interaction == pytest.approx((both - features - language) / (2 * math.sqrt(features * language)))
    assert abs(balance.interaction) > 0.02, "both signs would be right otherwise"
    assert balance.divergence["both"] == pytest.approx(both, rel=1e-5)
    assert balance.forwards == 4


class FailingError(Exception):
    """What a user's forward may raise."""


@pytest.mark.parametrize("fails_at", [None, 0, 1, 2])
def test_a_probe_leaves_model_optimizer_and_random_state_as_they_were(fails_at: int | None) -> None:
    model, control = toy(torch.float32), toy(torch.float32)
    meter, count = BalanceMeter(model, found(model)), 0
    steps = [training_step(one, toy_batch(16, seed=9, dtype=torch.float32)) for one in (control, model)]

    def forward(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal count
        if count == fails_at:
            raise FailingError
        count += 1
        torch.rand(3)
        return forward_of(model)(batch)

    meter.before_step()
    for step in steps:
        step()
    state = torch.get_rng_state()
    if fails_at is None:
        meter.measure(forward, [toy_batch(dtype=torch.float32)])
    else:
        with pytest.raises(FailingError):
            meter.measure(forward, [toy_batch(dtype=torch.float32)])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.llm[2].training
    for (name, value), expected in zip(model.state_dict().items(), control.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name
    for one, other in zip(model.parameters(), control.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)
    assert torch.equal(model(toy_batch(dtype=torch.float32)[0]), _from(control, state))


def _from(control: Toy, state: torch.Tensor) -> torch.Tensor:
    """Return a training forward of the control from the same random state: dropout and batch statistics as well."""
    torch.set_rng_state(state)
    found: torch.Tensor = control(toy_batch(dtype=torch.float32)[0])
    return found


def test_what_says_nothing_is_counted_and_never_raised() -> None:
    model = toy()
    meter, broken = BalanceMeter(model, found(model)), [toy_batch()]
    batch = toy_batch()

    def measure(forward: Any, probes: list[Any], *, step: bool = True) -> Balance:
        meter.before_step()
        if step:
            training_step(model, toy_batch(16, seed=9))()
        return meter.measure(forward, probes)

    def not_finite(batch: Batch) -> Any:
        return forward_of(model)(batch)[0] * math.nan, batch[1]

    def too_large(batch: Batch) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for forward, probes, step in [
        (not_finite, broken, True),
        (too_large, [batch], True),
        (forward_of(model), [batch], False),
        (forward_of(model), [(batch[0], torch.full_like(batch[1], -100))], True),
        (forward_of(model), [], True),
    ]:
        assert measure(forward, probes, step=step).rejected
    assert meter.measured == 5
    assert meter.rejected == {
        "the predictions are not finite": 1,
        "out of memory": 1,
        "neither side moved": 1,
        "the probe has no token that carries loss": 2,
    }
    assert not measure(forward_of(model), [batch]).rejected
    assert (meter.measured, meter.rejected.total()) == (6, 5)


def test_predictions_of_the_training_step_save_the_first_forward() -> None:
    model, batch = toy(dropout=0.0), toy_batch()
    model.vision[1].eval()  # in training mode its features depend on the whole batch
    given, counts = [], []
    meter = BalanceMeter(model, found(model), floor=0.0)
    for _ in range(3):
        given = [as_predictions(forward_of(model)(batch)).first(len(batch[0]))]
        step = training_step(model, batch)
        before = copy.deepcopy(model)
        meter.before_step()
        step()
        balance = meter.measure(forward_of(model), [batch], given)
        counts.append(balance.forwards)
        base, language, features = (mixture(before, model, names)(batch[0]) for names in (set(), {"llm"}, FEATURES))
        expected = [naive_mean(base, after, batch[1], "kl") for after in (language, features)]
        assert balance.log_kappa == pytest.approx(math.log(expected[0] / expected[1]), abs=1e-5)
    assert counts == [3, 2, 2]  # the first time it is compared
    assert meter.base_usable is True


def test_predictions_under_dropout_are_found_out_and_not_used() -> None:
    model, batch = toy(), toy_batch()
    meter = BalanceMeter(model, found(model), floor=0.0)
    for number in range(2):
        given = [as_predictions(forward_of(model)(batch)).first(len(batch[0]))]
        step = training_step(model, batch)
        before = copy.deepcopy(model)
        meter.before_step()
        step()
        if number == 0:
            with pytest.warns(UserWarning, match="differ from its own"):
                balance = meter.measure(forward_of(model), [batch], given)
        else:
            balance = meter.measure(forward_of(model), [batch], given)
        base, language, features = (mixture(before, model, names)(batch[0]) for names in (set(), {"llm"}, FEATURES))
        expected = [naive_mean(base, after, batch[1], "kl") for after in (language, features)]
        assert balance.log_kappa == pytest.approx(math.log(expected[0] / expected[1]), abs=1e-5)
        assert balance.forwards == 3
        assert set(balance.losses) == {"base", "features", "language"}
    assert meter.base_usable is False


def test_the_meters_memory_survives_its_state() -> None:
    _, _, meter = measured(toy())
    meter.rejected["out of memory"] = 2
    meter.base_usable = False
    model = toy()
    again = BalanceMeter(model, found(model))
    again.load_state_dict(meter.state_dict())
    assert again.state_dict() == meter.state_dict()
    assert (again.measured, again.rejected.total(), again.base_usable) == (1, 2, False)


class Wide(nn.Module):
    """An encoder and a language model wide enough that 16-bit rounding averages out, as in real models."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64))
        self.llm = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 64))

    def component_modules(self) -> dict[str, list[nn.Module]]:
        return {"vision": [self.vision], "llm": [self.llm]}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.llm(self.vision(inputs))
        return found


def wide_log_kappa(dtype: torch.dtype, **options: Any) -> list[Balance]:
    """Return the balances alone of `wide_measured`."""
    return wide_measured(dtype, **options)[1]


def wide_measured(
    dtype: torch.dtype,
    *,
    autocast: bool = False,
    seed: int = 0,
    size: float = 1e-4,
    rounding: float = 0.0,
    given: bool = False,
    **options: Any,
) -> tuple[BalanceMeter, list[Balance]]:
    """Return a meter and three balances of the same fp32 steps of Adam-like size, the probe computed in another type.

    Logits are off by random numbers of the size `rounding`, others after every change of a weight, as deep models round
    in 16 bits; and others again in predictions before the step, where those are `given`.
    """
    torch.manual_seed(seed)
    model = Wide()
    inputs, targets = torch.randn(8, 6, 32), torch.randint(64, (8, 6))
    parts = components(model)
    steps = [[size * torch.randn(value.shape).sign() for value in model.parameters()] for _ in range(3)]
    if dtype == torch.float64:
        model.double()
        parts = components(model)
    meter, found_balances = BalanceMeter(model, parts, **options), []

    def forward(another_pass: int) -> Any:
        state = hash(tuple(float(value.double().sum()) for value in model.parameters()))
        generator = torch.Generator().manual_seed((state + another_pass) % 2**31)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(inputs.to(dtype))
        return logits + rounding * torch.randn(logits.shape, generator=generator).to(logits), targets

    for step in steps:
        with torch.no_grad():
            bases = [as_predictions(forward(1))] if given else None
        meter.before_step()
        with torch.no_grad():
            for value, change in zip(model.parameters(), step, strict=True):
                value += change
        found_balances.append(meter.measure(forward, [0], bases))
    return meter, found_balances


@pytest.mark.parametrize("seed", range(3))
def test_amplified_steps_under_16_bits_come_within_a_fifth_of_a_nat(seed: int) -> None:
    exact = wide_log_kappa(torch.float64, seed=seed)
    assert all(balance.amplification == {"features": 1.0, "language": 1.0} for balance in exact)
    rounded = wide_log_kappa(torch.float32, autocast=True, seed=seed)
    for one, other in zip(exact, rounded, strict=True):
        assert one.log_kappa == pytest.approx(other.log_kappa, abs=0.2)
        assert all(1 < factor <= 100 for factor in other.amplification.values())
    plain = wide_log_kappa(torch.float32, autocast=True, seed=seed, amplification=1.0)
    errors = [abs(one.log_kappa - other.log_kappa) for one, other in zip(exact, plain, strict=True)]
    assert max(errors) > 0.4, "the plain step drowns in rounding, or this test shows nothing"


def test_what_the_model_rounds_is_measured_once_and_kept_with_its_state() -> None:
    off = 0.02
    meter, balances = wide_measured(torch.float32, autocast=True, size=1e-2, rounding=off)
    found = meter.state_dict()["rounding"]
    assert [balance.record()["rounding"] for balance in balances] == [found] * 3
    assert found == pytest.approx(off**2, rel=0.2)  # half the variance of the difference between two random errors
    again = BalanceMeter(meter.model, meter.found)
    again.load_state_dict(meter.state_dict())
    assert again.amplification.rounding == found
    meter, _ = wide_measured(torch.float32, size=1e-2, rounding=off)
    assert meter.state_dict()["rounding"] is None, "in 32 bits nothing is amplified, and nothing spent on it"


def test_given_predictions_are_used_that_are_no_further_off_than_the_model_rounds() -> None:
    options: dict[str, Any] = {"size": 1e-2, "rounding": 0.02}
    own = wide_log_kappa(torch.float32, autocast=True, **options)
    given = wide_log_kappa(torch.float32, autocast=True, given=True, **options)
    assert [balance.forwards for balance in own[1:]] == [3, 3]
    assert [balance.forwards for balance in given[1:]] == [2, 2]
    for one, other in zip(own, given, strict=True):
        assert one.log_kappa == pytest.approx(other.log_kappa, abs=0.15)
    with pytest.warns(UserWarning, match="differ from its own"):  # in 32 bits that is no rounding
        given = wide_log_kappa(torch.float32, given=True, **options)
    assert [balance.forwards for balance in given] == [3, 3, 3]


def test_inside_one_autocast_context_the_weights_just_set_are_the_ones_computed_with() -> None:
    with torch.autocast("cpu", torch.bfloat16):  # keeps the weights it has cast, also through forwards inside it
        inside = wide_log_kappa(torch.float32, autocast=True)
    outside = wide_log_kappa(torch.float32, autocast=True)
    assert [balance.divergence for balance in inside] == [balance.divergence for balance in outside]


def test_a_fixed_amplification_changes_little_in_full_precision() -> None:
    plain = wide_log_kappa(torch.float64)[0]
    amplified = wide_log_kappa(torch.float64, amplification=10.0)[0]
    assert amplified.amplification == {"features": 10.0, "language": 10.0}
    assert amplified.log_kappa == pytest.approx(plain.log_kappa, abs=0.05)
    assert amplified.log_kappa != plain.log_kappa
    assert amplified.divergence == pytest.approx(plain.divergence, rel=0.1)


def test_a_wrong_use_is_an_error_that_says_what_to_do() -> None:
    model = toy()
    meter, batch = BalanceMeter(model, found(model)), toy_batch()
    with pytest.raises(BalanceError, match="before_step"):
        meter.measure(forward_of(model), [batch])
    meter.before_step()
    with pytest.raises(BalanceError, match=r"list of micro-batches"):
        meter.measure(forward_of(model), batch)  # type: ignore[arg-type]
    with pytest.raises(BalanceError, match="as many bases"):
        meter.measure(forward_of(model), [batch], [])
    with pytest.raises(BalanceError, match="no reduction 'tokens'; did you mean 'token'"):
        BalanceMeter(model, found(model), reduction="tokens")  # type: ignore[arg-type]
    with pytest.raises(BalanceError, match=r"0\.5 would shrink the step"):
        BalanceMeter(model, found(model), amplification=0.5)
    with pytest.raises(BalanceError, match="no divergence 'k'"):
        BalanceMeter(model, found(model), divergence="k")
    with pytest.raises(ModelError, match="no component counts as the features side"):
        BalanceMeter(model, {"llm": found(model)["llm"]})


def test_a_forward_that_predicts_other_tokens_every_time_is_an_error() -> None:
    model, sizes = toy(), iter([6, 5])
    meter = BalanceMeter(model, found(model))
    step = training_step(model, toy_batch(16, seed=9))
    meter.before_step()
    step()

    def forward(batch: Batch) -> Predictions:
        size = next(sizes)
        return as_predictions((model(batch[0][:size]), batch[1][:size]))

    with pytest.raises(BalanceError, match="must predict the same tokens every time"):
        meter.measure(forward, [toy_batch()])


def test_a_side_at_rest_keeps_its_amplification_for_the_day_it_moves() -> None:
    model = toy(torch.bfloat16)
    model.llm.requires_grad_(False)
    _, _, meter = measured(model, [toy_batch(dtype=torch.bfloat16)])
    assert set(meter.state_dict()["amplification"]) == {"features"}
