"""The coordinator: sets the components' rates at every step, the base schedule times the rule's multipliers.

It never replaces warm-up or decay. This is the hook every rule hangs on; with `constant` it only keeps the books.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from cotune.coordination.components import Component
from cotune.coordination.schedules import Rates, Rule

LANGUAGE_SIDE = ("llm",)


class Coordinator:
    """Multiplies base rates; the optimiser has one parameter group per component, marked by `component`.

    `base_rates` are the peak rates by component; components missing there keep their rate.
    """

    def __init__(
        self,
        components: Mapping[str, Component],
        optimizer: Optimizer,
        *,
        rule: Rule,
        base_rates: Mapping[str, float],
    ) -> None:
        self.components, self.optimizer, self.rule = dict(components), optimizer, rule
        self.base_rates = dict(base_rates)
        self.multipliers = Rates()

    def before_step(self, schedule: float) -> dict[str, float]:
        """Set and return every component's rate for this step; `schedule` is the base schedule's factor in [0, 1]."""
        rates = {}
        for group in self.optimizer.param_groups:
            name = group["component"]
            if name in self.base_rates:
                side = self.multipliers.llm if name in LANGUAGE_SIDE else self.multipliers.features
                group["lr"] = self.base_rates[name] * schedule * side
            rates[name] = group["lr"]
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's memory and the multipliers in force."""
        return {"rule": self.rule.state_dict(), "features": self.multipliers.features, "llm": self.multipliers.llm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.rule.load_state_dict(state["rule"])
        self.multipliers = Rates(state["features"], state["llm"])
