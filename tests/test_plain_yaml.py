import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotune.plain_yaml import dump_yaml, load_yaml

PRINTABLE = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
TRICKY = st.sampled_from(
    ["1e-3", "1.5", "12", "-4", "010", "0x1f", "1_000", "1:30", "yes", "No", "on", "true", "null", "~", "", "<<", "=",
     ".inf", ".nan", "2025-01-31", "a: b", "- a", "#", "'", '"', "\n", " x ", "{", "[", "&a", "*a", "!t", "1.", ".5"]
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TRICKY, PRINTABLE)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY | PRINTABLE, inner, max_size=3),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-1E+3", -1000.0), ("1.", 1.0), (".5", 0.5), ("1.0e-3", 0.001), ("12", 12), ("-3", -3),
        (".inf", math.inf), ("-.inf", -math.inf), ("true", True), ("False", False), ("null", None), ("~", None),
        ("", None), ("yes", "yes"), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2025-01-31", "2025-01-31"),
        ("010", 10), ("+7", 7), ("e3", "e3"), ("1e", "1e"), ("nan", "nan"), ("inf", "inf"), ("'1e-3'", "1e-3"),
        ('"12"', "12"), ("[1e-3, yes]", [0.001, "yes"]), ("{yes: 1, no: 2}", {"yes": 1, "no": 2}), ("-", [None]),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2_says(text, value):
    assert same(load_yaml(text), value)


@given(VALUES)
def test_what_is_written_is_read_again(value):
    assert same(load_yaml(dump_yaml(value)), value)


@given(VALUES)
def test_other_readers_of_yaml_read_the_same(value):
    assert same(yaml.safe_load(dump_yaml(value)), value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x:\n  - {rate: 1, rate: 2}\n"])
def test_a_key_that_stands_twice_is_refused_with_its_place(text):
    with pytest.raises(yaml.YAMLError, match=r"the key '(a|rate)' stands twice"):
        load_yaml(text)


def test_anchors_and_merges_work():
    text = "base: &b {rate: 1, steps: 2}\nother:\n  <<: *b\n  rate: 3\n"
    assert load_yaml(text)["other"] == {"rate": 3, "steps": 2}


def test_no_python_object_is_made():
    with pytest.raises(yaml.YAMLError):
        load_yaml("!!python/object/apply:os.getcwd []")
