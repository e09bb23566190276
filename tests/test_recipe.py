import copy
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cotune.errors import RecipeError
from cotune.plain_yaml import load_yaml
from cotune.recipe import Data, Recipe
from cotune.recipe.reading import load_recipe, parse_recipe
from cotune.training.catalogue import built_in

MINIMAL: dict[str, Any] = {
    "name": "x",
    "model": {"llm": {"path": "llm"}},
    "data": {"train": [{"path": "a"}, {"path": "b"}]},
    "training": {"steps": 3},
}
IMAGE = {"kind": "efficientnet-lite0", "path": "encoder"}


def content(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(MINIMAL) | changes


def with_encoder() -> dict[str, Any]:
    return content(model={"llm": {"path": "llm"}, "encoders": {"image": dict(IMAGE)}})


def changed(*overrides: str) -> Recipe:
    return parse_recipe(with_encoder(), overrides)


def problems(found: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(found, overrides)
    return caught.value.problems


def sections(kind: type[BaseModel], where: str = "") -> dict[str, type[BaseModel]]:
    """Every section of the recipe by the path that an override would use."""
    found = {where: kind}
    for name, field in kind.model_fields.items():
        pending, steps = [field.annotation], name
        while pending:
            annotation = pending.pop()
            pending += get_args(annotation)
            if str(annotation).startswith("list["):
                steps += ".0"
            elif str(annotation).startswith("dict["):
                steps += ".image"
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                found |= sections(annotation, f"{where}.{steps}".removeprefix("."))
    return found


SECTIONS = sections(Recipe)
FULL_SOURCE = {"path": "a", "balance": {"by": ["kind"]}, "conversation": {"turns": 2}}


def full() -> dict[str, Any]:
    """A recipe in which every section of the schema is written out."""
    found = with_encoder()
    found["model"]["encoders"]["audio"] = {"path": "ears"}
    found["data"] = {"train": [copy.deepcopy(FULL_SOURCE)], "test": [copy.deepcopy(FULL_SOURCE)]}
    found["evaluation"] = {"tasks": ["mme"]}
    return parse_recipe(found).model_dump(mode="json")


def at(found: Any, path: str) -> Any:
    for step in filter(None, path.split(".")):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def test_the_sections_are_found():
    assert {"", "model.llm.adapters", "model.encoders.image.adapters", "data.train.0.balance"} <= SECTIONS.keys()


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_an_unknown_key_is_refused_in_every_section_with_the_nearest_name(section):
    known = max(SECTIONS[section].model_fields, key=len)
    typo = known[:-1] + "zz"
    found = full()
    at(found, section)[typo] = 1
    assert problems(found) == [f"{section}.{typo}: unknown key; did you mean '{known}'?".removeprefix(".")]


def test_unknown_keys_in_all_sections_are_reported_at_once():
    found = full()
    for section in SECTIONS:
        at(found, section)["qqq"] = 1
    listed = problems(found)
    assert sorted(problem.partition(": ")[0] for problem in listed) == sorted(
        f"{section}.qqq".removeprefix(".") for section in SECTIONS
    )
    assert all("unknown key; known: " in problem for problem in listed)


def test_problems_of_every_kind_are_reported_at_once():
    found = content(training={"steps": -1, "schedule": "sine"}, nam="y")
    del found["data"]
    listed = problems(found, "components.llm.rate=fast", "steps 5")
    assert listed == [
        "'steps 5': an override is written key=value, for example training.steps=500",
        "components.llm.rate: Input should be a valid number, unable to parse string as a number (got 'fast')",
        "data: required, but missing",
        "training.steps: Input should be greater than 0 (got -1)",
        "training.schedule: Input should be 'constant', 'linear' or 'cosine' (got 'sine')",
        "nam: unknown key; did you mean 'name'?",
    ]


def test_an_unknown_kind_of_encoder_is_refused_with_the_nearest_name():
    found = content(model={"llm": {"path": "llm"}, "encoders": {"imge": IMAGE}})
    assert problems(found) == ["model.encoders.imge: unknown key; did you mean 'image'?"]


def test_a_key_that_is_no_text_is_refused():
    assert problems(content() | {3: 1}) == ["3: Keys should be strings (got 3)"]


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("training.steps=500", lambda r: r.training.steps, 500),
        ("components.llm.rate=2e-3", lambda r: r.components.llm.rate, 0.002),
        ("components.vision.rate=1e-4", lambda r: r.components.vision.rate, 0.0001),
        ("coordination.options.alpha=1e-3", lambda r: r.coordination.options, {"alpha": 0.001}),
        ("coordination.options.inner.deep=[1, 2e-1]", lambda r: r.coordination.options, {"inner": {"deep": [1, 0.2]}}),
        ("data.blank_media=true", lambda r: r.data.blank_media, True),
        ("data.blank_media=yes", lambda r: r.data.blank_media, True),
        ("training.clip_norm=null", lambda r: r.training.clip_norm, None),
        ("training.betas=[0.8, 0.99]", lambda r: r.training.betas, (0.8, 0.99)),
        ("data.train.1.weight=3", lambda r: [s.weight for s in r.data.train], [1.0, 3.0]),
        ("data.train.1={path: c}", lambda r: [s.path for s in r.data.train], ["a", "c"]),
        ("data.train.0.balance.by=[kind]", lambda r: r.data.train[0].balance.by, ["kind"]),
        ("data.train.0.balance={by: [a], shares: {yes: 0.5, 2: 0.5}}", lambda r: r.data.train[0].balance.shares,
         {"yes": 0.5, "2": 0.5}),
        ("model.encoders.image.taps=[stage3]", lambda r: r.model.encoders.image.taps, ["stage3"]),
        ("output=runs/a=b", lambda r: r.output, "runs/a=b"),
        ("name='1e-3'", lambda r: r.name, "1e-3"),
        ("name=2024", lambda r: r.name, "2024"),
        ("name=2024-01-31", lambda r: r.name, "2024-01-31"),
        ("name=inf", lambda r: r.name, "inf"),
    ],
)  # fmt: skip
def test_an_override_sets_one_value(override, get, value):
    assert get(changed(override)) == value
    assert changed(override) != changed()


def test_the_rate_of_vision_alone_leaves_it_frozen_and_all_else_as_it_was():
    recipe = parse_recipe(content(), ["components.vision.rate=1e-4"])
    expected = parse_recipe(content()).model_dump()
    expected["components"]["vision"]["rate"] = 1e-4
    assert recipe.model_dump() == expected
    assert recipe.components.vision.tune == "frozen"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.steps", "an override is written key=value, for example training.steps=500"),
        ("=3", "an override is written key=value, for example training.steps=500"),
        ("training.betas=[0.9", "the value is not YAML; quote it"),
        ("data.train.7.path=c", "'7' in 'data.train.7.path' is not a section of the recipe"),
        ("data.train.x=c", "'x' is not an index of a list with 2 entries"),
        ("data.train.2=c", "'2' is not an index of a list with 2 entries"),
        ("name.long.text=c", "'long' in 'name.long.text' is not a section of the recipe"),
        ("name.long=c", "the key before 'long' holds a value, not a section"),
    ],
)
def test_an_override_with_bad_syntax_is_quoted_with_what_is_wrong(override, problem):
    assert problems(content(), override) == [f"'{override}': {problem}"]


def test_overrides_leave_the_given_mapping_as_it_was():
    given_content = content()
    parse_recipe(given_content, ["training.steps=9", "components.llm.rate=1", "data.train.0.path=c"])
    assert given_content == MINIMAL


def test_later_overrides_win():
    assert changed("training.steps=5", "training.steps=7").training.steps == 7


def test_recipes_share_no_section():
    one, two = parse_recipe(content()), parse_recipe(content())
    one.components.llm.rate = 0.5
    one.model.llm.adapters.rank = 16
    assert two.components.llm.rate != 0.5 and two.model.llm.adapters.rank != 16


@given(st.integers(1, 64), st.integers(1, 64))
def test_groups_must_divide_rank(rank, groups):
    overrides = [f"model.llm.adapters={{rank: {rank}, groups: {groups}}}"]
    if rank % groups:
        assert problems(content(), *overrides) == [f"model.llm.adapters: groups ({groups}) must divide rank ({rank})"]
    else:
        assert parse_recipe(content(), overrides).model.llm.adapters.groups == groups


@pytest.mark.parametrize("tune", ["adapters", "full", "lora"])
def test_vision_cannot_be_tuned_without_an_encoder(tune):
    assert "components.vision.tune is set, but the recipe names no image encoder" in "".join(
        problems(content(), f"components.vision.tune={tune}")
    )
    assert changed(f"components.vision.tune={tune}").components.vision.tune == tune


@pytest.mark.parametrize(
    "override",
    [
        "components.llm.rate=.inf",
        "components.llm.rate=.nan",
        "components.llm.rate=0",
        "model.llm.adapters.dropout=1.0",
        "training.betas=[0.9, 1.0]",
        "data.validation_share=1.0",
        "data.train=[]",
        "data.train.0.conversation.turns=1",
        "name=''",
    ],
)
def test_a_value_no_run_can_use_is_refused_with_its_key(override):
    (problem,) = problems(content(), override)
    assert problem.startswith(override.partition("=")[0])


positive = st.floats(min_value=1e-12, max_value=1e12)
share = st.floats(0.0, 1.0)
words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | words | positive,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
balances = st.fixed_dictionaries(
    {"by": st.lists(words, min_size=1, max_size=3)}, optional={"shares": st.dictionaries(words, share, max_size=3)}
)
sources = st.fixed_dictionaries(
    {"path": words},
    optional={
        "weight": positive,
        "media": st.none() | words,
        "balance": st.none() | balances,
        "conversation": st.fixed_dictionaries({"turns": st.integers(2, 9), "single": share}),
    },
)
encoders = st.fixed_dictionaries(
    {"kind": words, "path": words},
    optional={"taps": st.lists(words, min_size=1, max_size=3), "grid": st.integers(1, 9)},
)
recipes = st.fixed_dictionaries(
    {
        "name": words,
        "model": st.fixed_dictionaries(
            {"llm": st.fixed_dictionaries({"path": words, "chat_template": st.none() | words})},
            optional={"encoders": st.dictionaries(st.just("image"), encoders)},
        ),
        "data": st.fixed_dictionaries({"train": st.lists(sources, min_size=1, max_size=3)}),
        "training": st.fixed_dictionaries(
            {"steps": st.integers(1, 10**9)}, optional={"clip_norm": st.none() | positive}
        ),
    },
    optional={
        "output": st.none() | words,
        "coordination": st.fixed_dictionaries({"options": st.dictionaries(words, plain, max_size=3)}),
        "components": st.fixed_dictionaries({"llm": st.fixed_dictionaries({"rate": positive})}),
    },
)


@given(recipes)
def test_a_resolved_recipe_is_read_as_the_same_recipe(found):
    recipe = parse_recipe(found)
    assert parse_recipe(load_yaml(recipe.to_yaml())) == recipe


def test_the_resolved_recipe_writes_out_every_default():
    written = load_yaml(parse_recipe(full()).to_yaml())
    for path, section in SECTIONS.items():
        assert at(written, path).keys() == section.model_fields.keys()


def test_the_run_folder_is_the_output_or_named_after_the_recipe():
    assert parse_recipe(content()).folder == Path("runs/x")
    assert parse_recipe(content(), ["output=elsewhere/y"]).folder == Path("elsewhere/y")


def test_a_value_is_checked_when_it_is_assigned_too():
    recipe = parse_recipe(content())
    with pytest.raises(ValueError, match="greater than 0"):
        recipe.training.steps = 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"name: [", "is not YAML"),
        (b"name: a\nname: b\n", "the key 'name' stands twice"),
        (b"- 1", "is not a recipe"),
        (b"", "is not a recipe"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_the_reason(tmp_path, text, said):
    file = tmp_path / "r.yaml"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(file)
    assert str(file) in str(caught.value)


def test_a_file_and_overrides_make_a_recipe(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: x\nmodel: {llm: {path: p}}\ndata: {train: [{path: d}]}\ntraining: {steps: 3}\n")
    assert load_recipe(file, ["training.steps=4"]) == parse_recipe(
        {"name": "x", "model": {"llm": {"path": "p"}}, "data": {"train": [{"path": "d"}]}, "training": {"steps": 4}}
    )


@pytest.mark.parametrize("name", sorted(built_in()))
def test_a_built_in_recipe_can_be_read_and_its_first_lines_say_what_it_needs_and_how_to_run_it(name):
    path = built_in()[name]
    assert load_recipe(path).name == name
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    assert comments[0].startswith(f"# {name}: ") and comments[0].endswith(".")
    assert comments[1].startswith("# Needs: ")
    (run,) = (line for line in comments if line.startswith("# Run:"))
    assert "cotune " in run and name in run


def test_a_probe_larger_than_the_batch_is_refused_and_left_out_fits_any_batch():
    (problem,) = problems(content(), "coordination.probe=3", "training.batch_size=2")
    assert problem.startswith("coordination.probe (3) is larger than training.batch_size (2)")
    assert parse_recipe(content(), ["training.batch_size=1"]).coordination.probe is None


def test_a_path_stands_for_a_source_and_for_the_data():
    whole = Data.model_validate({"train": [{"path": "a.jsonl"}]})
    for short in ("a.jsonl", {"train": "a.jsonl"}, {"train": ["a.jsonl"]}, {"train": {"path": "a.jsonl"}}):
        assert Data.model_validate(short) == whole
    assert Data.model_validate({"train": "a", "test": "b"}).test[0].path == "b"


def test_tasks_to_score_stand_by_name_or_in_full_and_two_of_a_kind_need_names():
    found = changed(
        "evaluation.tasks=[mme, {task: mme, name: mme-few, limit: 3, every: 4}]", "evaluation.tasks_every=6"
    )
    assert [entry.label for entry in found.evaluation.tasks] == ["mme", "mme-few"]
    due = {step: [entry.label for entry in found.evaluation.due(step)] for step in range(13)}
    assert {step: names for step, names in due.items() if names} == {
        4: ["mme-few"], 6: ["mme"], 8: ["mme-few"], 12: ["mme", "mme-few"],
    }  # fmt: skip
    assert "mme stand there more than once" in problems(with_encoder(), "evaluation.tasks=[mme, mme]")[0]
    assert "no tasks to score" in problems(with_encoder(), "evaluation.tasks_every=5")[0]
    assert "tasks.0.name" in problems(with_encoder(), "evaluation.tasks=[{task: mme, name: ../up}]")[0]
