"""The feature cache: every picture is encoded once, and never answered for by a stale or damaged file."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from cotune.data.media import load_image
from cotune.errors import DataError
from cotune.model import feature_cache, feature_store
from cotune.model.encoders import FeatureEncoder, Trunk
from cotune.model.feature_cache import FeatureCache
from cotune.model.feature_store import FeatureStore
from tests.model.pictures import random_picture


class Corner(FeatureEncoder):
    """An encoder whose trunk is the first pixel and the sum of the picture; it counts the pictures it sees."""

    width, tokens = 3, 1

    def __init__(self, fingerprint: str = "corner", *, cacheable: bool = True) -> None:
        super().__init__()
        self.fingerprint, self.cacheable = fingerprint, cacheable
        self.somewhere = torch.nn.Parameter(torch.zeros(1))
        self.seen = 0

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.tensor(image.get_flattened_data()).view(image.height, image.width, 3).permute(2, 0, 1).float()

    def trunk(self, pixels: Tensor) -> Trunk:
        self.seen += len(pixels)
        return {"corner": pixels[:, :, 0, 0], "sum": pixels.sum((1, 2, 3))}

    def features(self, trunk: Trunk) -> Tensor:
        return trunk["corner"].unsqueeze(1)


# Bytes of what the encoder makes of one picture: four numbers of four bytes.
ROW = 16


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "pictures").mkdir()  # a folder's name decides where blocks end
    found = [tmp_path / "pictures" / f"{number}.png" for number in range(5)]
    for number, path in enumerate(found):
        random_picture(number, 4, 4).save(path)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def corner(path: Path) -> list[float]:
    return [float(value) for value in Image.open(path).getpixel((0, 0))]  # type: ignore[union-attr]


def cache(encoder: Corner, folder: Path | None, most: int = 10**9) -> FeatureCache:
    return FeatureCache(encoder, FeatureStore(folder, most) if folder is not None else None, Image.open)


def assert_right(made: FeatureCache, paths: list[Path]) -> None:
    rows = made.rows(paths)
    assert rows["corner"].tolist() == [corner(path) for path in paths]
    assert rows["sum"].tolist() == [
        float(sum(sum(pixel) for pixel in Image.open(p).get_flattened_data())) for p in paths
    ]


def test_every_picture_is_computed_once_and_given_in_any_order_and_number(paths: list[Path], folder: Path) -> None:
    encoder = Corner()
    made = cache(encoder, folder)
    advanced: list[int] = []
    made.prepare([*paths, paths[0]], advanced.append)
    assert_right(made, [paths[3], paths[0], paths[0], paths[4]])
    assert_right(made, paths[::-1])
    assert (made.computed, sum(advanced)) == (5, 5)
    assert encoder.seen == 6  # one told how large a row is
    assert len(made) == 5


def test_a_second_cache_reads_what_the_first_has_stored(paths: list[Path], folder: Path) -> None:
    cache(Corner(), folder).prepare(paths)
    encoder, advanced = Corner(), Counter[str]()
    made = cache(encoder, folder)
    made.prepare(paths, lambda count: advanced.update(pictures=count))
    assert_right(made, paths)
    assert (made.computed, encoder.seen, advanced["pictures"]) == (0, 0, 5)
    assert not list(folder.rglob("*.tmp"))


def test_another_order_and_one_of_the_folders_are_found_again(
    paths: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_ENOUGH_OF_A_FOLDER", 1)
    other = tmp_path / "other" / "0.png"
    other.parent.mkdir()
    random_picture(9, 4, 4).save(other)
    cache(Corner(), folder).prepare([other, *paths])
    shuffled, alone = cache(Corner(), folder), cache(Corner(), folder)
    shuffled.prepare([*reversed(paths), other])
    alone.prepare([other])
    assert shuffled.computed == alone.computed == 0
    expected = cache(Corner(), None).rows([*paths, other])
    assert all(rows.equal(expected[name]) for name, rows in shuffled.rows([*paths, other]).items())


def test_pictures_prepared_later_stand_behind_the_earlier_ones(paths: list[Path], folder: Path) -> None:
    made = cache(Corner(), folder)
    made.prepare(paths[:2])
    made.prepare(paths)
    assert made.computed == 5
    assert_right(made, paths[::-1])


@pytest.mark.parametrize("damage", ["garbage", "cut off", "empty", "no tensors", "too few rows"])
def test_a_damaged_file_is_computed_and_stored_again(paths: list[Path], folder: Path, damage: str) -> None:
    from safetensors.torch import save_file

    cache(Corner(), folder).prepare(paths)
    (stored,) = folder.rglob("*.safetensors")
    whole = stored.read_bytes()
    if damage == "no tensors":
        save_file({}, stored)
    elif damage == "too few rows":
        save_file({"corner": torch.zeros(4, 3), "sum": torch.zeros(4)}, stored)
    else:
        stored.write_bytes({"garbage": b"x" * 500, "cut off": whole[:-4], "empty": b""}[damage])
    made = cache(Corner(), folder)
    made.prepare(paths)
    assert made.computed == 5
    assert_right(made, paths)
    assert stored.read_bytes() == whole


def test_a_changed_picture_or_another_encoder_is_computed_anew(paths: list[Path], folder: Path) -> None:
    cache(Corner(), folder).prepare(paths)
    random_picture(99, 4, 4).save(paths[2])
    made = cache(Corner(), folder)
    made.prepare(paths)
    assert made.computed == 5
    assert_right(made, paths)
    other = cache(Corner("another"), folder)
    other.prepare(paths)
    assert other.computed == 5


def test_unknown_pictures_are_computed_when_asked_for(paths: list[Path]) -> None:
    made = cache(Corner(), None)
    made.prepare(paths[:2])
    assert_right(made, [paths[0], paths[4], paths[1], paths[4]])
    assert_right(made, [paths[0]])
    assert made.computed == 3  # two prepared, one for the batch that held it


def test_only_as_many_are_kept_as_there_is_room_for(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MOST", 2)
    store = FeatureStore(folder, 4 * ROW + ROW // 2)
    made, other = (FeatureCache(Corner(name), store, Image.open) for name in ("one", "other"))
    made.prepare(paths)
    assert (len(made), store.in_use) == (4, 4 * ROW)
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) >= 4 * ROW
    other.prepare(paths)
    assert len(other) == 0  # both encoders share the room
    for held in (made, other):
        assert_right(held, paths)
        assert_right(held, paths[::-1])
    # One row told their size, which was not kept; then what is not kept is computed every time.
    assert made.computed == 4 + 1 + 1
    assert other.computed == 5 + 5


def test_what_is_computed_together_does_not_depend_on_what_is_stored(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MOST", 2)
    cache(Corner(), folder).prepare(paths[2:4])  # as another run has stored them
    blocks = [cache(Corner(), where).blocks(paths) for where in (folder, folder / "elsewhere")]
    assert blocks[0] == blocks[1] == [paths[:2], paths[2:4], paths[4:]]


def test_an_interrupted_run_has_stored_the_blocks_it_finished(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MOST", 2)

    def interrupt(path: Path) -> Image.Image:
        if path == paths[4]:
            raise KeyboardInterrupt
        return Image.open(path)

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(Corner(), FeatureStore(folder, 10**9), interrupt).prepare(paths)
    again = cache(Corner(), folder)
    again.prepare(paths)
    assert again.computed == 1


def test_threads_load_what_is_computed_next_each_file_once(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_CHUNK", 2)
    loaded, in_threads = Counter[Path](), set[str]()

    def load(path: Path) -> Image.Image:
        loaded[path] += 1
        in_threads.add(threading.current_thread().name)
        return Image.open(path)

    made = FeatureCache(Corner(), FeatureStore(folder, 10**9), load)
    blocks = made.blocks(paths)
    loaded.clear()
    in_threads.clear()
    with ThreadPoolExecutor(2, thread_name_prefix="loads") as pool:
        made.keep(blocks, pool=pool)
    assert loaded == dict.fromkeys(paths, 1)
    assert all(name.startswith("loads") for name in in_threads)
    assert_right(made, paths[::-1])


def test_processes_that_divide_the_blocks_find_each_others(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MOST", 1)
    made = [cache(Corner(), folder) for _ in range(2)]
    for rank, mine in enumerate(made):
        mine.keep(mine.blocks(paths)[rank::2])
    for mine in made:
        advanced: list[int] = []
        mine.keep(mine.blocks(paths), advanced.append)
        assert sum(advanced) + mine.computed == len(mine) == 5
        assert_right(mine, paths)
    assert [mine.computed for mine in made] == [3, 2]


def test_many_pictures_are_computed_in_pieces_and_joined_in_order(paths: list[Path]) -> None:
    made = cache(Corner(), None)
    many = [paths[index % 5] for index in range(150)]
    assert_right(made, many)


def test_an_encoder_that_learns_as_a_whole_has_nothing_to_store(paths: list[Path], folder: Path) -> None:
    made = cache(Corner(cacheable=False), folder)
    made.prepare(paths)
    assert made.computed == 0
    assert not folder.exists()
    assert_right(made, paths)


@pytest.mark.parametrize("blocked", ["cache", "cache/corner"])
def test_a_folder_that_cannot_be_written_costs_the_cache_only_and_is_reported(
    paths: list[Path], tmp_path: Path, blocked: str
) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file where the folder should be")
    made = cache(Corner(), tmp_path / "cache")
    made.prepare(paths)
    assert made.store is not None and "cache" in made.store.failure
    assert_right(made, paths)
    assert made.computed == 5


def test_what_cannot_be_stored_is_held_in_memory_within_bounds(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MOST", 1)
    monkeypatch.setattr(feature_cache, "_MOST_IN_MEMORY", 2 * ROW - 1)
    (tmp_path / "cache").write_text("a file where the folder should be")
    made = cache(Corner(), tmp_path / "cache")
    made.prepare(paths)
    assert len(made) == 2
    assert_right(made, paths)


def test_what_was_begun_is_what_is_given_and_each_file_is_loaded_once(paths: list[Path]) -> None:
    loads: Counter[Path] = Counter()

    def load(path: Path) -> Image.Image:
        loads[path] += 1
        return Image.open(path)

    made = FeatureCache(Corner(cacheable=False), None, load)
    with ThreadPoolExecutor(2) as pool:
        made.begin(paths[:3], pool)
        made.begin(paths[1:4], pool)  # two of them under way
        assert_right(made, [paths[3], paths[1], paths[2], paths[1]])
        made.begin(paths[3:], pool)
        assert_right(made, paths[3:])
    assert loads == dict.fromkeys(paths, 1)


def test_nothing_is_begun_for_files_whose_rows_are_kept(paths: list[Path]) -> None:
    made = cache(Corner(), None)
    made.prepare(paths[:4])
    with ThreadPoolExecutor(1) as pool:
        made.load = lambda path: pytest.fail(f"{path} is loaded again")
        made.begin(paths[:4], pool)
    assert_right(made, paths[:4])


def test_a_file_that_cannot_be_loaded_is_named_when_it_is_asked_for(paths: list[Path]) -> None:
    made = FeatureCache(Corner(cacheable=False), None, load_image)
    paths[1].write_bytes(b"no picture")
    with ThreadPoolExecutor(1) as pool:
        made.begin(paths[:3], pool)
        made.rows([paths[0], paths[2]])
        with pytest.raises(DataError, match=str(paths[1])):
            made.rows(paths[:2])
