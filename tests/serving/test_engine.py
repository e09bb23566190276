"""The engine against one request at a time by the model's own decoding, whoever shares the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.messages import Message, Part, Text
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.engine import Engine, QueueFullError
from cotune.serving.sampling import SamplingSettings
from cotune.serving.ways import find_ways
from tests.model.naive_joined import naive_answer
from tests.model.test_joined_media import fresh, picture, sound
from tests.serving.asked import Heard, asked

CONVERSATIONS: list[tuple[str, str]] = [
    ("hello", ""),
    ("what is this?", "p0"),
    ("and what do you hear? " * 3, "s1"),
    ("both?", "p1 s2"),
    ("a longer question, without anything shown, about nothing in particular " * 2, ""),
    ("again?", "p2 p3"),
    ("?", "s0"),
    ("hm", "p0"),
]


def quiet(_: str) -> None:
    """Say nothing."""


def turns(root: Path, text: str, media: str) -> list[Message]:
    parts: list[Part] = [{"p": picture, "s": sound}[name[0]](root, int(name[1])) for name in media.split()]
    return [Message("user", (*parts, Text(text)))]


@pytest.fixture(scope="module")
def model(tiny_root: Path) -> MultimodalLM:
    return fresh(tiny_root)


Make = Callable[..., Engine]


@pytest.fixture
def engine_of(model: MultimodalLM) -> Iterator[Make]:
    made: list[Engine] = []

    def make(which: MultimodalLM = model, *, fold: bool = False, started: bool = True, **options: Any) -> Engine:
        engine = Engine(which, find_ways(which, fold=fold, say=quiet), **options)
        made.append(engine)
        if started:
            engine.start()
        return engine

    yield make
    for engine in made:
        if engine._thread.is_alive():
            engine.stop(5)


def alone(model: MultimodalLM, messages: list[Message], length: int) -> str:
    """Return the answer to one conversation, every token by a full pass over everything before it."""
    text: str = model.template.tokenizer.decode(naive_answer(model, messages, length), skip_special_tokens=True)
    return text


def together(engine: Engine, model: MultimodalLM, root: Path, lengths: list[int], pause: float = 0.0) -> list[Heard]:
    """Return what is heard of all conversations, asked at (almost) the same time."""
    found = []
    for (text, media), length in zip(CONVERSATIONS, lengths, strict=False):
        generation, heard = asked(model, turns(root, text, media), max_tokens=length)
        engine.submit(generation)
        found.append(heard)
        time.sleep(pause)
    return [heard.wait() for heard in found]


@pytest.mark.parametrize("fold", [False, True], ids=["routed", "folded"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_an_answer_does_not_depend_on_who_shares_the_batch(
    engine_of: Make, model: MultimodalLM, tiny_root: Path, fold: bool, rows: int
) -> None:
    lengths = [3, 12, 7, 1, 20, 5, 9, 15]
    found = together(engine_of(fold=fold, rows=rows), model, tiny_root, lengths)
    expected = [
        alone(model, turns(tiny_root, *shown), length) for shown, length in zip(CONVERSATIONS, lengths, strict=True)
    ]
    assert [heard.text() for heard in found] == expected
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("routing", ["hard-text", "soft"])
def test_every_routing_gives_the_answers_of_its_folded_weights(tiny_root: Path, engine_of: Make, routing: str) -> None:
    from tests.model.test_joined_media import ROUTINGS

    other = fresh(tiny_root, *ROUTINGS[routing])
    ways = find_ways(other, fold=True, say=quiet)
    assert {way.path for way in ways.values()} == {"folded"}
    lengths = [6] * len(CONVERSATIONS)
    routed, folded = (together(engine_of(other, fold=fold), other, tiny_root, lengths) for fold in (False, True))
    assert [heard.text() for heard in routed] == [heard.text() for heard in folded]
    expected = [alone(other, turns(tiny_root, *shown), 6) for shown in CONVERSATIONS]
    assert [heard.text() for heard in routed] == expected


@settings(max_examples=5)
@given(lengths=st.lists(st.integers(1, 25), min_size=8, max_size=8), rows=st.integers(2, 8), seed=st.integers(0, 9))
def test_requests_that_come_one_after_another_are_answered_as_alone(
    tiny_root: Path, model: MultimodalLM, lengths: list[int], rows: int, seed: int
) -> None:
    engine = Engine(model, find_ways(model, fold=False, say=quiet), rows=rows)
    engine.start()
    try:
        found = together(engine, model, tiny_root, lengths, pause=0.002 * seed)
    finally:
        engine.stop(5)
    for heard, shown, length in zip(found, CONVERSATIONS, lengths, strict=True):
        assert heard.text() == alone(model, turns(tiny_root, *shown), length)
        assert heard.ended[0].tokens <= length


def test_a_long_prompt_is_read_in_pieces_while_others_are_answered(
    engine_of: Make, model: MultimodalLM, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotune.serving.engine._PIECE", 5)
    found = together(engine_of(), model, tiny_root, [40, *[6] * 7], pause=0.01)
    for heard, shown, length in zip(found, CONVERSATIONS, [40, *[6] * 7], strict=True):
        assert heard.text() == alone(model, turns(tiny_root, *shown), length)


def test_the_first_to_finish_leaves_while_the_others_go_on(
    engine_of: Make, model: MultimodalLM, tiny_root: Path
) -> None:
    engine = engine_of(rows=2)
    order: list[str] = []
    found = []
    for name, length in (("long", 60), ("short", 2), ("next", 3)):
        generation, heard = asked(model, turns(tiny_root, "hello", ""), max_tokens=length)
        told = heard.__call__

        def listen(event: Any, name: str = name, told: Any = told, heard: Heard = heard) -> None:
            told(event)
            if heard.done.is_set():
                order.append(name)

        generation.listener = listen
        engine.submit(generation)
        found.append(heard)
    for heard in found:
        heard.wait()
    assert order[-1] == "long"
    assert order.index("short") < order.index("next")


def test_several_answers_to_one_request_differ_by_their_dice_and_repeat_by_the_seed(
    engine_of: Make, model: MultimodalLM, tiny_root: Path
) -> None:
    engine = engine_of()
    answers = []
    for _ in range(2):
        sampling = SamplingSettings(temperature=1.5, seed=7)
        generation, heard = asked(model, turns(tiny_root, "hello", "p0"), sampling=sampling, choices=3)
        engine.submit(generation)
        heard.wait()
        answers.append([heard.text(choice) for choice in range(3)])
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == 3


def test_drawn_answers_do_not_depend_on_who_shares_the_batch(
    engine_of: Make, model: MultimodalLM, tiny_root: Path
) -> None:
    found = []
    for others in (0, 5):
        engine = engine_of()
        for text, media in CONVERSATIONS[:others]:
            engine.submit(asked(model, turns(tiny_root, text, media), max_tokens=30)[0])
        sampling = SamplingSettings(temperature=1.0, top_p=0.9, seed=3)
        generation, heard = asked(model, turns(tiny_root, "hello", "s1"), sampling=sampling, max_tokens=20)
        engine.submit(generation)
        found.append(heard.wait().text())
    assert found[0] == found[1]


def test_a_full_queue_turns_away_with_a_time(engine_of: Make, model: MultimodalLM, tiny_root: Path) -> None:
    engine = engine_of(started=False, queue=2)
    for _ in range(2):
        engine.submit(asked(model, turns(tiny_root, "hello", ""))[0])
    assert engine.full
    with pytest.raises(QueueFullError) as refused:
        engine.submit(asked(model, turns(tiny_root, "hello", ""))[0])
    assert refused.value.seconds >= 1


def test_who_waits_too_long_is_turned_away_and_who_runs_too_long_is_ended(
    engine_of: Make, model: MultimodalLM, tiny_root: Path
) -> None:
    engine = engine_of(started=False)
    late, heard_late = asked(model, turns(tiny_root, "hello", ""), seconds=-1.0)
    slow, heard_slow = asked(model, turns(tiny_root, "hello", "p0"), seconds=2.0, max_tokens=10**6)
    model_of_the_never_ending = set(model.template.stop_ids)
    model.template.stop_ids.clear()
    try:
        engine.submit(late)
        engine.submit(slow)
        engine.start()
        assert heard_late.wait().failed[0].busy
        assert heard_slow.wait().ended[0].reason == "time"
    finally:
        model.template.stop_ids.update(model_of_the_never_ending)


def test_a_cancelled_request_is_not_computed_any_further(engine_of: Make, model: MultimodalLM, tiny_root: Path) -> None:
    engine = engine_of()
    stop_ids = set(model.template.stop_ids)
    model.template.stop_ids.clear()
    try:
        generation, heard = asked(model, turns(tiny_root, "hello", "p0"), max_tokens=10**6)
        engine.submit(generation)
        while not heard.events:
            time.sleep(0.005)
        generation.cancel()
        limit = time.monotonic() + 60
        while engine.running and time.monotonic() < limit:
            time.sleep(0.005)
        assert engine.running == 0 and not heard.ended
    finally:
        model.template.stop_ids.update(stop_ids)


def test_draining_finishes_what_runs_and_turns_away_who_waits(
    engine_of: Make, model: MultimodalLM, tiny_root: Path
) -> None:
    engine = engine_of(rows=1)
    running, heard_running = asked(model, turns(tiny_root, *CONVERSATIONS[4]), max_tokens=40)
    waiting, heard_waiting = asked(model, turns(tiny_root, "hello", ""))
    engine.submit(running)
    engine.submit(waiting)
    while not heard_running.events:
        time.sleep(0.002)
    engine.drain()
    assert heard_waiting.wait().failed[0].busy
    assert heard_running.wait().text() == alone(model, turns(tiny_root, *CONVERSATIONS[4]), 40)
    with pytest.raises(QueueFullError):
        engine.submit(asked(model, turns(tiny_root, "hello", ""))[0])


def test_a_fault_is_told_to_those_it_met_and_the_next_request_is_answered(
    engine_of: Make, model: MultimodalLM, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    with monkeypatch.context() as patch:

        def broken(*_: object, **__: object) -> torch.Tensor:
            raise RuntimeError("out of everything")

        patch.setattr(model, "logits", broken)
        generation, heard = asked(model, turns(tiny_root, "hello", "p0"))
        engine.submit(generation)
        assert not heard.wait().failed[0].busy
    generation, heard = asked(model, turns(tiny_root, "hello", "p0"))
    engine.submit(generation)
    assert heard.wait().text() == alone(model, turns(tiny_root, "hello", "p0"), 8)


def test_a_picture_shown_again_is_not_encoded_again(engine_of: Make, model: MultimodalLM, tiny_root: Path) -> None:
    engine = engine_of()
    for _ in range(3):
        generation, heard = asked(model, turns(tiny_root, "hello", "p0 s1 p0"))
        engine.submit(generation)
        heard.wait()
    assert engine.shelf.computed == 2


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by Linux' /proc")
def test_the_threads_that_helped_its_starter_to_compute_are_ended(engine_of: Make) -> None:
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    engine, threads = engine_of(started=False), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 3)
        torch.ones(1 << 20).add_(1)
        left = running() - (threads + 2) + 1  # without the helpers, with the engine's own
        engine.start()
        until = time.monotonic() + 30
        while running() > left and time.monotonic() < until:  # the system takes a moment to forget them
            time.sleep(0.01)
        assert running() <= left
    finally:
        torch.set_num_threads(threads)


def test_more_answers_than_rows_are_refused(engine_of: Make, model: MultimodalLM, tiny_root: Path) -> None:
    engine = engine_of(rows=2)
    with pytest.raises(ValueError, match="3 answers"):
        engine.submit(asked(model, turns(tiny_root, "hello", ""), choices=3)[0])
