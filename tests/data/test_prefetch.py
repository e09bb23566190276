"""Drawing ahead: the same batches, the same states and the same counts as without, and every file begun in time."""

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cotune.data.prefetch import Prefetch
from cotune.data.template import Encoded
from cotune.messages import IMAGE
from tests.data.test_batching import make


class Loader:
    """Remembers what it was told to begin; it takes no time and uses no thread."""

    def __init__(self) -> None:
        self.begun: list[list[Path]] = []

    def begin(self, paths: Sequence[Path], pool: Executor) -> None:
        self.begun.append(list(paths))


def whole(batch: Sequence[Encoded]) -> Sequence[Encoded]:
    return batch


def ids(batch: Sequence[Encoded]) -> list[str]:
    return [encoded.sample.id for encoded in batch]


def files(batch: Sequence[Encoded]) -> set[Path]:
    return {part.path for encoded in batch for part in encoded.sample.media}


@given(st.integers(0, 4), st.integers(1, 14), st.data())
def test_batches_states_and_counts_are_those_of_the_plain_stream(workers: int, total: int, data: Any) -> None:
    plain, stream = make(), make()
    ahead = Prefetch(stream, {IMAGE: Loader()}, workers, whole)
    for taken in range(total):
        assert ids(ahead.take(total - taken)) == ids(next(plain))
        state = plain.state_dict()
        assert ahead.state_dict() == state
        if data.draw(st.booleans()):  # stopped here, and gone on with by a new process
            stream = make()
            ahead = Prefetch(stream, {IMAGE: Loader()}, data.draw(st.integers(0, 4)), whole)
            ahead.load_state_dict(state)
    assert stream.state_dict() == plain.state_dict()
    assert stream.counts() == plain.counts()


def test_a_state_that_is_put_back_forgets_what_was_drawn_ahead() -> None:
    ahead = Prefetch(make(), {IMAGE: Loader()}, 2, whole)
    before = ahead.state_dict()
    first = [ids(ahead.take(9)) for _ in range(4)]
    ahead.load_state_dict(before)
    assert [ids(ahead.take(9)) for _ in range(4)] == first


def test_the_files_of_a_batch_are_begun_two_batches_before_it_is_used_and_its_own_come_first() -> None:
    loader, plain = Loader(), make()
    batches = [next(plain) for _ in range(5)]
    ahead = Prefetch(make(), {IMAGE: loader}, 1, whole)
    for place in range(5):
        ahead.take(5 - place)
        coming = batches[place : place + 3]
        assert set(loader.begun[-1]) == set().union(*map(files, coming))
        assert set(loader.begun[-1][: len(files(coming[0]))]) == files(coming[0])
        assert len(loader.begun[-1]) == len(set(loader.begun[-1]))


def test_a_process_begins_its_own_share_alone_and_other_kinds_are_left_to_their_loaders() -> None:
    loader, plain = Loader(), make()
    mine = next(plain)[:1]
    Prefetch(make(), {IMAGE: loader, "audio": object()}, 1, lambda batch: batch[:1]).take(1)
    assert set(loader.begun[0]) == files(mine)


def test_without_workers_nothing_is_begun_or_drawn_ahead() -> None:
    loader, stream, plain = Loader(), make(), make()
    Prefetch(stream, {IMAGE: loader}, 0, whole).take(9)
    next(plain)
    assert loader.begun == []
    assert stream.state_dict() == plain.state_dict()
