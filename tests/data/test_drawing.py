import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.data.drawing import Drawer, join
from cotune.errors import DataError
from cotune.messages import Image, Message, Sample, Text, question_answer
from cotune.recipe import Source

CAT, DOG = Image(Path("cat.png")), Image(Path("dog.png"))


def numbered(count: int) -> list[Sample]:
    return [question_answer(str(number), "q", "a") for number in range(count)]


def labelled(*rows: dict[str, str]) -> list[Sample]:
    return [question_answer(str(number), "q", "a", meta=meta) for number, meta in enumerate(rows)]


def drawer(samples: Sequence[Sample], seed: int = 0, **source: Any) -> Drawer:
    return Drawer(samples, Source.model_validate({"path": "d", **source}), seed)


def draw_many(source: Drawer, count: int, seed: int = 0) -> list[Sample]:
    generator = random.Random(seed)
    return [source.draw(generator) for _ in range(count)]


def ids(source: Drawer, count: int, seed: int = 0) -> list[str]:
    return [sample.id for sample in draw_many(source, count, seed)]


def problems(samples: Sequence[Sample], **balance: Any) -> list[str]:
    with pytest.raises(DataError, match="d cannot be balanced") as caught:
        drawer(samples, balance=balance)
    return caught.value.problems


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 9))
def test_every_epoch_shows_every_sample_exactly_once(count, epochs, seed):
    drawn = ids(drawer(numbered(count), seed), count * epochs)
    for start in range(0, len(drawn), count):
        assert sorted(drawn[start : start + count], key=int) == [str(number) for number in range(count)]


def test_every_epoch_source_and_seed_has_an_order_of_its_own():
    orders = [tuple(ids(drawer(numbered(30), seed, path=path), 60)) for seed in (0, 1) for path in ("d", "e")]
    halves = [order[start : start + 30] for order in orders for start in (0, 30)]
    assert len(set(halves)) == 8


@given(st.integers(0, 40), st.sampled_from([{}, {"balance": {"by": ["kind"]}}]))
def test_a_drawer_set_to_a_number_of_draws_goes_on_as_the_one_that_made_them(drawn, source):
    samples = labelled(*({"kind": str(number % 3)} for number in range(7)))
    first, second = drawer(samples, **source), drawer(samples, **source)
    ids(first, drawn)
    second.drawn = drawn
    assert ids(first, 15, seed=4) == ids(second, 15, seed=4)


UNEVEN = labelled(
    *[{"kind": "yes/no", "question": "red?", "answer": "yes"}] * 5,
    *[{"kind": "yes/no", "question": "red?", "answer": "no"}] * 1,
    *[{"kind": "yes/no", "question": "blue?", "answer": "no"}] * 2,
    *[{"kind": "color", "question": "what?", "answer": "red"}] * 1,
    *[{"kind": "color", "question": "what?", "answer": "blue"}] * 3,
    *[{"kind": "shape", "question": "which?", "answer": "circle"}] * 4,
)


def chance(sample: Sample, by: list[str], shares: dict[str, float] | None) -> float:
    """The chance of a sample by the nested law, worked out level by level from the whole list."""
    left, result = UNEVEN, 1.0
    for level, key in enumerate(by):
        values = {other.meta[key] for other in left}
        own = sample.meta[key]
        result *= shares[own] / sum(shares.values()) if shares and level == 0 else 1 / len(values)
        left = [other for other in left if other.meta[key] == own]
    return result / len(left)


@pytest.mark.parametrize(
    ("by", "shares"),
    [
        (["kind"], None),
        (["kind", "question", "answer"], None),
        (["answer"], None),
        (["kind", "question", "answer"], {"yes/no": 0.6, "color": 0.27, "shape": 0.13}),
        (["kind", "answer"], {"yes/no": 0.2, "color": 0.1, "shape": 0.0}),
    ],
)
def test_balanced_draws_follow_the_nested_law(by, shares):
    draws = 20_000
    counts = Counter(ids(drawer(UNEVEN, balance={"by": by, "shares": shares}), draws, seed=1))
    chances = {sample.id: chance(sample, by, shares) for sample in UNEVEN}
    assert math.isclose(sum(chances.values()), 1.0)
    for name, p in chances.items():
        # Five standard deviations: one test in a hundred thousand seeds would fail by chance.
        assert abs(counts[name] - draws * p) <= 5 * math.sqrt(draws * p * (1 - p)), name


def test_a_key_that_no_sample_has_is_named_with_the_nearest_one():
    assert problems(UNEVEN, by=["kind", "questin"]) == [
        f"balance.by: {len(UNEVEN)} of {len(UNEVEN)} samples have no 'questin'; did you mean 'question'?"
    ]


def test_a_key_that_some_samples_lack_is_named_with_their_number():
    samples = labelled({"kind": "a"}, {"kind": "b"}, {"other": "c"})
    assert problems(samples, by=["kind"]) == ["balance.by: 1 of 3 samples have no 'kind'"]


def test_shares_must_name_the_values_that_samples_have():
    assert problems(UNEVEN, by=["kind"], shares={"yes/no": 0.5, "colour": 0.5, "shape": 0.0}) == [
        "balance.shares: no sample has kind = 'colour'; did you mean 'color'?",
        "balance.shares: no share for kind = 'color'; write 0 to leave it out",
    ]


def test_shares_that_are_all_zero_draw_nothing_and_are_refused():
    assert problems(UNEVEN, by=["kind"], shares={"yes/no": 0.0, "color": 0.0, "shape": 0.0}) == [
        "balance.shares: every share is zero"
    ]


def asked(picture: Image, number: int) -> Sample:
    """A sample with a system message, and its picture in the middle of the question."""
    user = Message("user", (Text("look: "), picture, Text(f"{number}?")))
    system, answer = Message("system", (Text("Be kind."),)), Message("assistant", (Text(f"{number}!"),))
    return Sample(f"{picture.path.stem}{number}", (system, user, answer), meta={"kind": "k"})


ABOUT_PICTURES = [asked(CAT, 1), asked(CAT, 2), asked(CAT, 3), asked(DOG, 1), asked(DOG, 2)]


def test_a_conversation_by_hand():
    joined = join([asked(CAT, 2), asked(CAT, 1)])
    assert joined == Sample(
        "cat2+cat1",
        (
            Message("system", (Text("Be kind."),)),
            Message("user", (Text("look: "), CAT, Text("2?"))),
            Message("assistant", (Text("2!"),)),
            Message("user", (Text("look: "), Text("1?"))),
            Message("assistant", (Text("1!"),)),
        ),
        meta={"kind": "k"},
    )


@given(st.integers(2, 5), st.floats(0.0, 1.0), st.integers(0, 999))
def test_a_conversation_shows_its_picture_once_and_first_and_asks_different_questions_about_it(turns, single, seed):
    source = drawer(ABOUT_PICTURES, conversation={"turns": turns, "single": single})
    generator = random.Random(seed)
    by_id = {sample.id: sample for sample in ABOUT_PICTURES}
    for _ in range(10):
        drawn = source.draw(generator)
        members = [by_id[name] for name in drawn.id.split("+")]
        (picture,) = drawn.media
        assert all(member.media == (picture,) for member in members)
        assert len(members) == len(set(drawn.id.split("+"))) <= turns
        users = [message for message in drawn.messages if message.role == "user"]
        assert picture in users[0].parts
        assert [user.text for user in users] == [member.messages[1].text for member in members]
        assert [m.text for m in drawn.messages if m.role == "assistant"] == [m.messages[2].text for m in members]
        assert [m.role for m in drawn.messages] == ["system", *["user", "assistant"] * len(members)]


def test_a_conversation_takes_all_questions_of_a_picture_when_turns_allow():
    lengths = {
        (drawn.id[:3], drawn.id.count("+") + 1)
        for drawn in draw_many(drawer(ABOUT_PICTURES, conversation={"turns": 9, "single": 0.0}), 50)
    }
    assert lengths == {("cat", 3), ("dog", 2)}


def test_every_order_of_turns_is_drawn():
    source = drawer(ABOUT_PICTURES[:3], conversation={"turns": 2, "single": 0.0})
    assert len({drawn.id for drawn in draw_many(source, 200)}) == 6


@pytest.mark.parametrize("single", [0.0, 0.25, 1.0])
def test_the_single_share_of_draws_stays_one_question(single):
    draws = 4000
    source = drawer(ABOUT_PICTURES, conversation={"turns": 2, "single": single})
    alone = sum("+" not in drawn.id for drawn in draw_many(source, draws))
    assert abs(alone - single * draws) <= 5 * math.sqrt(draws * single * (1 - single))


def test_samples_without_media_or_with_a_picture_of_their_own_are_never_joined():
    samples = [*numbered(6), asked(CAT, 1), asked(DOG, 1)]
    drawn = draw_many(drawer(samples, conversation={"turns": 3, "single": 0.0}), 40)
    assert {sample.id for sample in drawn} == {sample.id for sample in samples}


def test_draws_are_decided_by_the_generator():
    def run(seed: int) -> list[Sample]:
        source = drawer(ABOUT_PICTURES, balance={"by": ["kind"]}, conversation={"turns": 3})
        return draw_many(source, 30, seed)

    assert run(1) == run(1)
    assert run(1) != run(2)
