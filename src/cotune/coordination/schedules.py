"""Rules that multiply the components' learning rates; a new rule is one class and one entry in `RULES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from cotune.errors import ModelError, nearest


@dataclass(frozen=True)
class Rates:
    """Multipliers of the base schedule for the feature side and the language side."""

    features: float = 1.0
    llm: float = 1.0


class Rule(Protocol):
    """Turns measured balance into multipliers; whatever it remembers is in its state."""

    def update(self, log_kappa: float) -> Rates:
        """Return the multipliers after a measurement of log kappa (language step over feature step)."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule remembers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember again."""


class Constant:
    """Keeps every component at its own base rate."""

    def update(self, log_kappa: float) -> Rates:
        """Return the neutral multipliers."""
        return Rates()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: this rule has no memory."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


RULES: dict[str, type] = {"constant": Constant}


def make_rule(name: str, **options: Any) -> Rule:
    """Return the rule of a name; raises ModelError with the nearest one for an unknown name or option."""
    if name not in RULES:
        raise ModelError(f"coordination.rule: no rule '{name}'{nearest(name, list(RULES))}")
    try:
        rule: Rule = RULES[name](**options)
    except TypeError as error:
        raise ModelError(f"coordination.options: {name} does not take these options: {error}") from None
    return rule
