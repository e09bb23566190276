"""The star of forwards: predictions before a step, and with one part's step only, all from the same starting point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cotune.coordination.components import FEATURES, LANGUAGE
from cotune.coordination.divergence import Divergence
from cotune.coordination.predictions import Predictions, Reduction, as_predictions
from cotune.coordination.probe import Step, gathered_anew, undisturbed
from cotune.coordination.totals import BASE, BOTH, Totals, base_totals, part_totals

GIVEN, ROUNDING = "given", "rounding"
# Of the step: what it changes by itself is then a ten-thousandth of what the step does.
_FAR_TOO_SHORT = 0.01

Forward = Callable[[Any], Any]


class Star:
    """The forwards of one measurement; use `probe` only inside `with star.standing():`.

    `parts` are the components that moved, by part; `both` means the two sides' together. A part without any needs no
    forward: its step changes nothing. Parts of the same components share one forward.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        forward: Forward,
        parts: Mapping[str, frozenset[str]],
        *,
        divergence: Divergence,
        reduction: Reduction,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.step, self.forward, self.parts = model, step, forward, parts
        self.divergence, self.reduction, self.dtype = divergence, reduction, dtype
        self.forwards = 0

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Leave the model, its parameters after the step and the random state as they were, whatever happens inside."""
        with undisturbed(self.model):
            try:
                yield
            finally:
                self._place(dict.fromkeys(self.step.names, 1.0))

    def before(self, probe: Any) -> Predictions:
        """Return the predictions before the step."""
        return self._predict(probe, {})

    def totals(self, probe: Any, base: Predictions, factors: Mapping[str, float]) -> Totals:
        """Return the totals of a probe, each part's step taken `factors` times."""
        dtype = torch.float32 if base.logits.device.type == "mps" else self.dtype  # Apple's GPU has no fp64
        found = base_totals(base, self.reduction, dtype)
        done: dict[frozenset[str], str] = {}
        for name, moved in self.parts.items():
            if moved in done:
                found += found.renamed(done[moved], name)
            elif not moved:
                found += found.renamed(BASE, name)
            else:
                after = self._predict(probe, self._factors(name, factors))
                found += part_totals(name, base, after, self.divergence, self.reduction, dtype)
                done[moved] = name
        return found

    def difference(self, own: Predictions, given: Predictions) -> Totals:
        """Return the divergence of predictions that were given from the probe's own, as the part `given`."""
        return Totals(part_totals(GIVEN, own, given, self.divergence, self.reduction, self.dtype).divergence)

    def rounding(self, probe: Any, own: Predictions) -> Totals:
        """Return the divergence under a hundredth of the whole step, as the part `rounding`: nearly all of it is that.

        In 16 bits any change, however small, rounds differently from layer to layer.
        """
        after = self._predict(probe, dict.fromkeys(frozenset().union(*self.parts.values()), _FAR_TOO_SHORT))
        return Totals(part_totals(ROUNDING, own, after, self.divergence, self.reduction, self.dtype).divergence)

    def _factors(self, name: str, factors: Mapping[str, float]) -> dict[str, float]:
        """Return how many times each component's step is taken for a part."""
        sides = (FEATURES, LANGUAGE) if name == BOTH else (name,)
        return {component: factors[side] for side in sides for component in self.parts[side]}

    def _predict(self, probe: Any, stepped: Mapping[str, float]) -> Predictions:
        self._place(stepped)
        self.forwards += 1
        return as_predictions(self.forward(probe))

    def _place(self, stepped: Mapping[str, float]) -> None:
        self.step.place(stepped)
        gathered_anew(self.model)
        # Inside one autocast context weights are cast once and kept: the values just set would not be seen.
        torch.clear_autocast_cache()
