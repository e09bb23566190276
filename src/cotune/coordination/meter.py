"""The meter: measures the balance of an optimiser step by forwards with one side's step only."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cotune.coordination.agreement import on_all_ranks
from cotune.coordination.amplification import Amplification, rounds
from cotune.coordination.balance import Balance, balance_of
from cotune.coordination.components import FEATURES, LANGUAGE, Component, sides
from cotune.coordination.divergence import divergence_named
from cotune.coordination.predictions import Predictions, Reduction
from cotune.coordination.probe import Step
from cotune.coordination.star import GIVEN, ROUNDING, Forward, Star
from cotune.coordination.totals import BOTH, Totals, sum_over_ranks
from cotune.errors import BalanceError, nearest

_OUT_OF_MEMORY = "out of memory"
# A given base may differ from the probe's own by so much of what is measured: an eighth of the ratio at most; or by so
# many times what rounding sets any two forwards apart, the probe's own before and after the step too.
_BASE_TOLERANCE, _ROUNDING_TOLERANCE = 4e-3, 4.0


class BaseNotUsedWarning(UserWarning):
    """Says that base predictions which were given differ from the probe's own, and are not used from now on."""


class BalanceMeter:
    """Measures what each side's step did to the predictions, and to the loss, of probe samples.

    Use it around the optimiser's step, on the steps that are measured:

        meter.before_step()
        optimizer.step()
        balance = meter.measure(forward, [probe])

    `forward(probe)` returns `(logits, targets)` or `(logits, targets, rows)`, see `as_predictions`. Steps shorter than
    16-bit numbers can hold are taken `amplification` times ("auto": only where the model computes in 16 bits, each part
    as often as makes it stand out from rounding; where the first guess is far off, the step is measured twice).
    `per_component` measures every component alone too, `interaction` both sides together: one forward more for each.
    `reduce` adds tensors over ranks.

    Costs two forwards of the probe, a third without `bases`, once another in 16 bits, and two copies of the trainable
    values meanwhile.

    Raises:
        BalanceError: for an unknown divergence or reduction, or an amplification below 1.
        ModelError: when one of the two sides has no component.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Mapping[str, Component],
        *,
        divergence: str = "kl",
        reduction: Reduction = "sample",
        amplification: float | Literal["auto"] = "auto",
        per_component: bool = False,
        interaction: bool = False,
        dtype: torch.dtype = torch.float64,
        floor: float = 1e-9,
        reduce: Callable[[Tensor], Tensor] = sum_over_ranks,
    ) -> None:
        if reduction not in get_args(Reduction):
            raise BalanceError(f"reduction: no reduction '{reduction}'{nearest(str(reduction), get_args(Reduction))}")
        self.model, self.found = model, dict(found)
        self.divergence, self.reduction = divergence_named(divergence), reduction
        self.amplification = Amplification(amplification)
        self.dtype, self.floor, self.reduce = dtype, floor, reduce
        self.parts = sides(found) | ({name: (name,) for name in found} if per_component else {})
        self.interaction = interaction
        self.measured, self.rejected = 0, Counter[str]()
        self.base_usable: bool | None = None  # unknown until a given one was compared
        self.step_norms: dict[str, float] = {}  # of the last measured step, by part
        self.relative_steps: dict[str, float] = {}  # the same over the norm of the values
        self._step: Step | None = None

    def before_step(self) -> Step:
        """Keep the trainable values, and return the step to be: the optimiser's comes next, `measure` ends it."""
        self._step = Step(self.found)
        return self._step

    def measure(self, forward: Forward, probes: list[Any], bases: Sequence[Predictions] | None = None) -> Balance:
        """Return the balance of the step just taken, on all probes together; model and random state stay as they are.

        `probes` are micro-batches, passed to `forward` one by one. `bases` are their predictions before the step, where
        the training forward has given them (without dropout, else they are not used: the first ones are checked).
        Measurements that say nothing are counted in `rejected`; running out of memory is one. Where anything fails on
        some ranks only, all of them raise.

        Raises:
            BalanceError: without `before_step`, or when `forward` returns something else than agreed on.
            OneRankError: when it failed on some of several ranks.
            Exception: whatever `forward` raises, after everything was put back.
        """
        started = time.perf_counter()
        step = on_all_ranks(lambda: self._finished(probes, bases), self.reduce, self._device)
        star = self._star(step, forward)
        moved = [name for name, parts in star.parts.items() if parts]
        balance, measured = self._together(star, probes, bases)
        if self.amplification.learn(balance, moved):
            balance, measured = self._together(star, probes, bases)
            self.amplification.learn(balance, moved)
        self._judge_base(balance, measured.given, checked=measured.checked)
        self.measured += 1
        if balance.reason is not None:
            self.rejected[balance.reason] += 1
        seconds = time.perf_counter() - started
        return replace(balance, rounding=self.amplification.rounding, forwards=star.forwards, seconds=seconds)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _finished(self, probes: list[Any], bases: Sequence[Predictions] | None) -> Step:
        """Return the step just taken, measured itself."""
        if self._step is None:
            raise BalanceError("call before_step() before the optimiser's step that is to be measured")
        if not isinstance(probes, list) or (bases is not None and len(bases) != len(probes)):
            raise BalanceError("give the probe as a list of micro-batches ([batch] for one), and as many bases")
        step, self._step = self._step, None
        step.finish()
        self.step_norms = {part: step.size(names) for part, names in self.parts.items()}
        self.relative_steps = {part: step.relative_size(names) for part, names in self.parts.items()}
        return step

    def _star(self, step: Step, forward: Forward) -> Star:
        """Return the forwards to make: of every part, those of its components that moved on any rank."""
        flags = self.reduce(torch.tensor([float(step.moved(name)) for name in self.found], device=self._device))
        moved = {name for name, flag in zip(self.found, flags.tolist(), strict=True) if flag}
        parts = {part: frozenset(moved.intersection(names)) for part, names in self.parts.items()}
        if self.interaction and parts[FEATURES] and parts[LANGUAGE]:
            parts[BOTH] = parts[FEATURES] | parts[LANGUAGE]
        options: dict[str, Any] = {"divergence": self.divergence, "reduction": self.reduction, "dtype": self.dtype}
        return Star(self.model, step, forward, parts, **options)

    def _together(
        self, star: Star, probes: list[Any], bases: Sequence[Predictions] | None
    ) -> tuple[Balance, _Measured]:
        """Return what all ranks measure together, and how."""
        usable = None if self.base_usable is False else bases
        found = on_all_ranks(lambda: self._all(star, probes, usable), self.reduce, self._device)
        measured = self._summed(found)
        given, rounding = (measured.totals.divergence.pop(name) for name in (GIVEN, ROUNDING))
        for name in (GIVEN, ROUNDING):
            del measured.totals.loss[name]
        measured.given = given / (measured.totals.weight or math.nan)
        if rounding > 0 and measured.totals.weight > 0:
            self.amplification.rounding = (rounding / measured.totals.weight) ** (2 / self.divergence.exponent)
        balance = balance_of(
            measured.totals,
            exponent=self.divergence.exponent,
            amplification=measured.factors,
            floor=self.floor,
            failed=measured.failed,
        )
        return balance, measured

    def _all(self, star: Star, probes: list[Any], bases: Sequence[Predictions] | None) -> _Measured:
        """Return the totals over this rank's micro-batches."""
        found = _Measured(Totals(dict.fromkeys([*star.parts, GIVEN, ROUNDING], 0.0)), dict.fromkeys(self.parts, 0.0))
        found.checked = bases is not None and self.base_usable is None
        try:
            with star.standing():
                for number, probe in enumerate(probes):
                    base = star.before(probe) if bases is None or found.checked else bases[number]
                    if number == 0:
                        found.factors = self.amplification.factors(
                            self.model, star.parts, self.parts, base.logits.dtype
                        )
                    if self.amplification.rounding is None and rounds(self.model, base.logits.dtype):
                        found.totals += star.rounding(probe, base)
                    if bases is not None and found.checked:
                        found.totals += star.difference(base, bases[number])
                    found.totals += star.totals(probe, base, found.factors)
                    found.ranks = 1.0
        except torch.OutOfMemoryError:
            found.failed, found.totals.weight = _OUT_OF_MEMORY, math.nan
        return found

    def _summed(self, found: _Measured) -> _Measured:
        """Return what all ranks measured together."""
        parts = list(found.totals.divergence)
        failed = float(found.failed is not None)
        values = [failed, found.ranks, *(found.ranks * value for value in found.factors.values())]
        values += found.totals.vector(parts)
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        failed, ranks, *values = self.reduce(torch.tensor(values, dtype=dtype, device=self._device)).tolist()
        # Ranks without a probe do not know the factors.
        factors = {name: value / ranks if ranks else 1.0 for name, value in zip(found.factors, values, strict=False)}
        totals = Totals.from_vector(values[len(factors) :], parts)
        return _Measured(totals, factors, ranks, found.checked, _OUT_OF_MEMORY if failed else None)

    def _judge_base(self, balance: Balance, given: float, *, checked: bool) -> None:
        """Decide from now on whether base predictions that are given are used."""
        if not checked or balance.rejected:
            return
        power = 2 / balance.exponent
        sizes = [
            value**power * balance.amplification.get(name, 1.0) ** 2
            for name, value in balance.divergence.items()
            if value and name != BOTH
        ]
        tolerated = max(_BASE_TOLERANCE * min(sizes), _ROUNDING_TOLERANCE * (self.amplification.rounding or 0.0))
        self.base_usable = given**power <= tolerated
        if not self.base_usable:
            warnings.warn(
                "the base predictions given to the balance probe differ from its own (dropout, other padding, or "
                "16-bit rounding); from now on the probe computes them itself, for one forward more",
                BaseNotUsedWarning,
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, the next amplification and whether given base predictions are used."""
        return {
            "measured": self.measured,
            "rejected": dict(self.rejected),
            "amplification": dict(self.amplification.chosen),
            "rounding": self.amplification.rounding,
            "base_usable": self.base_usable,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.measured, self.rejected = state["measured"], Counter(state["rejected"])
        self.amplification.chosen, self.base_usable = dict(state["amplification"]), state["base_usable"]
        self.amplification.rounding = state.get("rounding")  # snapshots from before it was measured have none


@dataclass
class _Measured:
    """What was measured: totals, each part's amplification, ranks with a probe, how far given bases are off."""

    totals: Totals
    factors: dict[str, float]
    ranks: float = 0.0
    checked: bool = False
    failed: str | None = None
    given: float = 0.0
