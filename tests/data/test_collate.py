from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotune.data import collate as module
from cotune.data.collate import Batch, collate
from cotune.data.template import IGNORED, Encoded
from cotune.messages import Image, Message, Sample, Text

FILLER = 9


def load(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """One row a picture: its number."""
    return {"pixels": torch.tensor([[float(path.stem)] for path in paths])}


LOADERS = {"image": load}


def encoded(tokens: list[int], learned: list[bool], pictures: Sequence[int] = ()) -> Encoded:
    """A sample whose pictures, one token each, stand in front of the tokens."""
    parts = tuple(Image(Path(f"{number}.png")) for number in pictures)
    targets = [token if learn else IGNORED for token, learn in zip(tokens, learned, strict=True)]
    media = len(pictures)
    return Encoded(
        [FILLER] * media + tokens,
        [IGNORED] * media + targets,
        [(place, place + 1) for place in range(media)],
        Sample("s", (Message("user", (*parts, Text("t"))),)),
    )


rows = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=7)
samples = st.builds(
    lambda row, pictures: encoded([token for token, _ in row], [learn for _, learn in row], pictures),
    rows,
    st.lists(st.integers(0, 99), max_size=3),
)


@given(st.lists(samples, min_size=1, max_size=5), st.booleans())
def test_every_row_holds_its_sample_and_padding_on_one_side(batch, pad_left):
    result = collate(batch, FILLER, LOADERS, pad_left=pad_left)
    longest = max(len(row) for row in batch)
    for index, row in enumerate(batch):
        space = longest - len(row)
        before, after = (space, 0) if pad_left else (0, space)
        for tensor, values, empty in (
            (result.tokens, row.tokens, FILLER),
            (result.targets, row.targets, IGNORED),
        ):
            assert tensor[index].tolist() == [empty] * before + values + [empty] * after
    assert result.lengths == [len(row) for row in batch]
    assert (result.tokens.dtype, result.targets.dtype) == (torch.int64, torch.int64)


@given(st.lists(samples, min_size=1, max_size=5), st.booleans())
def test_media_rows_come_in_the_order_in_which_features_stand_in_the_batch(batch, pad_left):
    result = collate(batch, FILLER, LOADERS, pad_left=pad_left)
    pictures = [medium for row in batch for medium in row.sample.media]
    if not pictures:
        assert result.features == {}
        return
    found = result.features["image"]
    # What splicing does: the features fill the marked places row by row.
    spliced = torch.full(result.tokens.shape, -1.0).masked_scatter(found.mask, found.rows["pixels"])
    for index, row in enumerate(batch):
        there = spliced[index][found.mask[index]].tolist()
        assert there == [float(medium.path.stem) for medium in row.sample.media]


def test_modalities_are_named_row_by_row():
    result = collate([encoded([1], [True]), encoded([1], [True], [4])], FILLER, LOADERS)
    assert result.modalities == ["text", "image"]


def test_a_batch_of_text_needs_no_media():
    result = collate([encoded([1, 2], [False, True])], FILLER, {})
    assert result.features == {}
    assert result.targets.tolist() == [[IGNORED, 2]]


def test_pictures_that_nothing_loads_are_an_error():
    with pytest.raises(ValueError, match="give a loader for 'image'"):
        collate([encoded([1], [True], [4])], FILLER, {})


def test_a_batch_moves_as_a_whole():
    batch = collate([encoded([1, 2], [False, True], [7])], FILLER, LOADERS)
    moved = batch.to(torch.device("meta"))
    found = moved.features["image"]
    tensors = [moved.tokens, moved.targets, found.mask, *found.rows.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.lengths, moved.modalities) == (batch.lengths, batch.modalities)
    assert isinstance(moved, Batch)


def test_a_gpu_is_given_pinned_memory_and_nobody_waits_for_it(monkeypatch):
    told = []

    class Given:
        is_cuda = False

        def pin_memory(self):
            told.append("pinned")
            return self

        def to(self, device, **how):
            told.append((device.type, how))
            return self

    given = Given()
    assert module.moved(given, torch.device("cuda")) is given
    assert told == ["pinned", ("cuda", {"non_blocking": True})]
    given.is_cuda = True
    module.moved(given, torch.device("cuda"))
    assert told[2:] == [("cuda", {})]
