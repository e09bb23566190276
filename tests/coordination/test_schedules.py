"""Rules by name, and errors that help with a wrong one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.coordination.schedules import RULES, Rates, make_rule
from cotune.errors import ModelError


@settings(max_examples=10, deadline=None)
@given(st.floats(-50, 50))
def test_the_constant_rule_never_changes_a_rate(log_kappa: float) -> None:
    assert make_rule("constant").update(log_kappa) == Rates(features=1.0, llm=1.0)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_goes_on_from_its_state_as_if_it_had_never_stopped(name: str) -> None:
    rule, resumed = make_rule(name), make_rule(name)
    for log_kappa in (0.5, -1.0):
        rule.update(log_kappa)
    resumed.load_state_dict(rule.state_dict())
    assert resumed.update(0.3) == rule.update(0.3)
    assert resumed.state_dict() == rule.state_dict()


def test_an_unknown_rule_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ModelError, match=r"coordination\.rule: no rule 'konstant'; did you mean 'constant'\?"):
        make_rule("konstant")


def test_an_unknown_option_is_an_error_that_names_the_rule() -> None:
    with pytest.raises(ModelError, match=r"coordination\.options: constant"):
        make_rule("constant", strength=2.0)
