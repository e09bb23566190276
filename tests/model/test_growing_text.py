"""An answer handed out piece by piece is the answer, cut in front of the first stop text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.model.growing_text import GrowingText
from tests.tiny import save_tokenizer

STOP = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def pieces(tokenizer: Any, text: str, stops: tuple[str, ...] = (), end: list[int] | None = None) -> list[str]:
    growing = GrowingText(tokenizer, {STOP}, stops)
    tokens = tokenizer(text, add_special_tokens=False).input_ids + (end or [])
    return [*(growing.add(token) for token in tokens), growing.finish()]


TEXTS = st.text(alphabet="abé😀 \n", max_size=20)


@given(text=TEXTS, ended=st.booleans())
def test_the_pieces_join_to_the_text_and_no_character_is_shown_in_halves(
    tokenizer: Any, text: str, ended: bool
) -> None:
    found = pieces(tokenizer, text, end=[STOP] if ended else [])
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


@given(text=TEXTS, stops=st.lists(st.text(alphabet="abé😀", min_size=1, max_size=3), max_size=3).map(tuple))
def test_a_stop_text_and_what_follows_is_never_shown(tokenizer: Any, text: str, stops: tuple[str, ...]) -> None:
    # By hand: the shortest beginning that ends with a stop text, without that text. Of two that end at one place the
    # longer began first.
    endings = [(end, stop) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    first = min((end for end, _ in endings), default=None)
    longest = max((len(stop) for end, stop in endings if end == first), default=0)
    expected = text if first is None else text[: first - longest]
    assert "".join(pieces(tokenizer, text, stops)) == expected


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_none(tokenizer: Any) -> None:
    assert pieces(tokenizer, "xabyab", ("abc",)) == ["x", "", "", "aby", "", "", "ab"]
    assert pieces(tokenizer, "xabc", ("abc",)) == ["x", "", "", "", ""]


def test_nothing_is_taken_behind_the_end(tokenizer: Any) -> None:
    growing = GrowingText(tokenizer, {STOP}, ("b",))
    a, b = tokenizer("ab", add_special_tokens=False).input_ids
    assert [growing.add(token) for token in (a, b, a, STOP, a)] == ["a", "", "", "", ""]
    assert growing.stopped and growing.finish() == ""


def test_a_character_that_never_was_completed_is_shown_at_the_end(tokenizer: Any) -> None:
    growing = GrowingText(tokenizer, {STOP})
    half = tokenizer("é", add_special_tokens=False).input_ids[0]
    assert growing.add(half) == ""
    assert growing.finish() == "\ufffd"
