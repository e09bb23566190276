"""The store of features: found by content, bounded, and in blocks that hardly change when files come or go."""

from __future__ import annotations

import os
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotune.model.feature_store import FeatureStore, Rows, blocks_of

NAMES = st.sets(st.integers(0, 5000), min_size=1, max_size=1500)


def rows_of(count: int, value: float = 0.0) -> Rows:
    """Return rows of 400 bytes each."""
    return {"features": torch.full((count, 100), value)}


def aged(file: Path, seconds: float) -> None:
    """Make a file one that was not used for some time."""
    os.utime(file, (time.time() - seconds, time.time() - seconds))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features", 10**9)


def test_rows_come_back_as_they_were_and_are_mapped_not_read(store: FeatureStore) -> None:
    file, rows = store.folder / "encoder" / "a.safetensors", {"features": torch.randn(3, 7).bfloat16()}
    assert store.write(file, rows)
    found = store.read(file, 3)
    assert found is not None and found["features"].equal(rows["features"])
    assert store.in_use == 3 * 7 * 2
    assert str(file) in Path("/proc/self/maps").read_text()
    assert store.row_size("encoder") == 14
    assert store.row_size("another") is None


def test_a_file_is_named_by_what_the_media_hold_and_by_their_order(store: FeatureStore, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    before = store.file_of("encoder", paths)
    (moved := tmp_path / "moved").write_text("a")
    assert store.file_of("encoder", [moved, *paths[1:]]) == before
    assert store.file_of("encoder", paths[::-1]) != before
    assert store.file_of("another", paths) != before
    paths[1].write_text("changed")
    assert store.file_of("encoder", paths) != before


def test_a_full_disk_leaves_no_half_written_file(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cotune.model.feature_store.save_file", full)
    assert not store.write(store.folder / "encoder" / "a.safetensors", rows_of(2))
    assert "No space left" in store.failure
    assert [file for file in store.folder.rglob("*") if file.is_file()] == []


def test_what_was_not_used_for_longest_makes_room(store: FeatureStore) -> None:
    files = [store.folder / encoder / "rows.safetensors" for encoder in ("first", "second", "third")]
    for age, file in zip((30, 20), files, strict=False):
        store.write(file, rows_of(10))
        aged(file, age)
    (half := store.folder / "second" / "rows.123.tmp").write_bytes(b"left by a process that was killed")
    aged(half, 40)
    mapped = store.read(files[1], 10)
    assert store.read(files[0], 10) is not None  # it is newer than the second now
    aged(files[1], 20)
    small = FeatureStore(store.folder, 2 * files[0].stat().st_size)
    small.write(files[2], rows_of(10, 3.0))
    assert [file.exists() for file in files] == [True, False, True]
    assert not half.exists()
    assert mapped is not None and mapped["features"].equal(rows_of(10)["features"])  # still there for who has it


def test_rows_larger_than_all_the_room_stay_until_the_next_ones(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 1)
    first, second = (tmp_path / "encoder" / f"{name}.safetensors" for name in "ab")
    for file in (first, second):
        store.write(file, rows_of(10))
        assert store.read(file, 10) is not None
    assert not first.exists()


def test_a_long_row_of_writes_never_holds_much_more_than_the_room(tmp_path: Path) -> None:
    most = 200_000
    store = FeatureStore(tmp_path, most)
    for number in range(300):
        store.write(tmp_path / "encoder" / f"{number}.safetensors", rows_of(5))  # one hundredth, and a header
        held = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
        assert held <= 1.02 * most
    assert held > 0.9 * most


def files_of(numbers: set[int], folders: int) -> list[Path]:
    """Return sorted paths, spread over some folders."""
    return sorted(Path(f"data/{number % folders}/{number}.png") for number in numbers)


@given(numbers=NAMES, folders=st.integers(1, 2000))
def test_blocks_hold_every_file_once_in_order_and_are_neither_large_nor_many(numbers: set[int], folders: int) -> None:
    paths = files_of(numbers, folders)
    blocks = list(blocks_of(paths))
    assert list(chain.from_iterable(blocks)) == paths
    assert all(1 <= len(block) <= 512 for block in blocks)
    ends_by_name = sum(len(block) < 32 for block in blocks)
    assert len(blocks) <= 1 + ends_by_name + len(paths) / 32


@given(number=st.integers(0, 5000))
def test_a_file_more_changes_the_blocks_around_it_only(number: int) -> None:
    others = set(range(5000)) - {number}
    before, after = ({tuple(block) for block in blocks_of(files_of(found, 1))} for found in (others, others | {number}))
    # Its block changes, is cut in two, or two become one; behind one as large as may be, the next changes too.
    assert len(before) > 20
    assert len(before - after) <= 3 and len(after - before) <= 3


def test_a_folder_of_its_own_is_found_again_by_a_run_that_uses_it_alone() -> None:
    train, test = ([Path(f"{part}/{number}.png") for number in range(60)] for part in ("train", "test"))
    both = list(blocks_of(sorted([*train, *test])))
    assert all(block in both for block in blocks_of(sorted(test)))
