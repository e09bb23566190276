import json
import wave
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from rich.console import Console

from cotune.data.media import load_image
from cotune.data.readers import json_lines
from cotune.data.sources import SourceSamples
from cotune.errors import DataError
from cotune.messages import Audio, Image, Sample, question_answer
from cotune.model.loading import build_model
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Data, Recipe
from cotune.training import prepare
from cotune.training.prepare import (
    Samples,
    leave_out_frozen_text,
    make_batches,
    media_paths,
    read_samples,
    read_test,
    without_media,
)
from cotune.training.run import prepare_training
from tests.tiny import tiny_recipe

QUIET = Console(quiet=True)


def data(root: Path, **changes: Any) -> Data:
    sources = {"train": [{"path": str(root / "train")}], "test": [{"path": str(root / "test")}]}
    return Data.model_validate({**sources, "validation_share": 0.3, **changes})


def pictures(samples: Sequence[Sample]) -> set[Path]:
    return {medium.path for sample in samples for medium in sample.media}


def everything(samples: Samples) -> list[Sample]:
    return [*samples.all_train, *samples.validation, *samples.test]


def asked(root: Path, part: str) -> list[list[object]]:
    """The questions of a tiny folder as they stand in its file."""
    return json.loads((root / part / "questions.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(3))
def test_no_picture_is_trained_on_and_held_out(tiny_root, seed):
    samples = read_samples(data(tiny_root), seed)
    train, held_out = pictures(samples.all_train), pictures(samples.validation)
    assert train and held_out and not train & held_out
    assert len(samples.all_train) + len(samples.validation) == len(asked(tiny_root, "train"))
    assert all(len(found) % 4 == 0 for found in (samples.all_train, samples.validation))  # four questions a picture


def test_the_split_depends_on_the_seed_alone(tiny_root):
    splits = [read_samples(data(tiny_root), seed).validation for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_sources_stay_apart_and_a_picture_they_share_is_on_one_side(tiny_root):
    source = {"path": str(tiny_root / "train")}
    samples = read_samples(data(tiny_root, train=[source, {**source, "limit": 20}]), 0)
    first_five = {tiny_root / "train" / "images" / f"{number}.png" for number in range(5)}
    assert samples.train[1] == [sample for sample in samples.train[0] if pictures([sample]) <= first_five]
    assert samples.all_train == samples.train[0] + samples.train[1]
    assert not pictures(samples.all_train) & pictures(samples.validation)


def test_counts_are_complete_and_hold_zeros_too(tiny_root):
    samples = read_samples(data(tiny_root), 0)
    assert dict(samples.counts) == {
        "train": len(samples.all_train),
        "validation": len(samples.validation),
        "test": len(asked(tiny_root, "test")),
    }
    alone = read_samples(data(tiny_root, validation_share=0, test=[]), 0)
    assert dict(alone.counts) == {"train": len(asked(tiny_root, "train")), "validation": 0, "test": 0}


def test_what_readers_skip_is_counted_over_all_sources(root):
    for number, part in enumerate(("train", "test")):
        folder = root / part / "images"
        (folder / "0.txt").write_text("a shape")
        assert len(list(folder.glob("*.png"))) == (12, 4)[number]
    sources = {part: [{"path": str(root / part / "images"), "reader": "captions"}] for part in ("train", "test")}
    samples = read_samples(data(root, **sources, validation_share=0), 0)
    assert dict(samples.counts) == {
        "pictures without a caption file, skipped": 11 + 3,
        "train": 1,
        "validation": 0,
        "test": 1,
    }


def test_the_test_limit_takes_the_first_questions(tiny_root):
    whole, cut = read_samples(data(tiny_root), 0), read_samples(data(tiny_root), 0, test_limit=5)
    assert cut.test == whole.test[:5]
    assert cut.counts["test"] == 5


def test_the_test_samples_alone_are_those_read_with_the_rest(root):
    spoil(root, "test", 1)
    shared = data(root, bad_media="drop", blank_media=True)
    alone, whole = read_test(shared, limit=9), read_samples(shared, 0, test_limit=9)
    assert alone.test == whole.test and len(alone.test) == 5
    assert (alone.all_train, alone.validation) == ([], [])
    assert (alone.counts["test"], alone.counts["dropped for bad media"]) == (5, 4)


def test_a_recipe_without_a_test_source_has_nothing_to_score(tiny_root):
    with pytest.raises(DataError, match=r"data\.test: the recipe names no test source"):
        read_test(data(tiny_root, test=[]))


@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        ([], 1),
        (["components.llm.tune=frozen"], 1),
        (["components.llm.tune=lora"], 0),
        (["model.llm.routing.text=trained"], 0),
        (["model.llm.routing.mode=soft"], 0),
    ],
)
def test_text_is_left_out_and_counted_where_the_text_path_does_not_learn(tiny_root, overrides, left_out):
    recipe = tiny_recipe(tiny_root, *overrides)
    seen = question_answer("seen", "q", "a", media=[Image(Path("a.png"))])
    samples = Samples([[seen, question_answer("read", "q", "a")]], [], [])
    leave_out_frozen_text(samples, recipe)
    assert [sample.id for sample in samples.all_train] == ["seen", "read"][: 2 - left_out]
    assert samples.counts["text-only, left out of training"] == left_out


def test_a_source_of_text_alone_is_an_error_where_the_text_path_does_not_learn(tiny_root):
    samples = Samples([[question_answer("read", "q", "a")]], [], [])
    with pytest.raises(DataError, match="it is text only, and the text path is frozen"):
        leave_out_frozen_text(samples, tiny_recipe(tiny_root))


def test_pictures_are_listed_once_each(tiny_root):
    samples = read_samples(data(tiny_root), 0)
    paths = media_paths(samples.everything)["image"]
    assert len(paths) == len(set(paths)) == 12 + 4
    assert set(paths) == pictures(everything(samples))


def test_blank_media_takes_every_picture_out_and_changes_nothing_else(tiny_root):
    shown, blank = (read_samples(data(tiny_root, blank_media=flag), 0) for flag in (False, True))
    assert media_paths(blank.everything) == {}
    assert {sample.modality for sample in everything(blank)} == {"text"}
    for before, after in zip(everything(shown), everything(blank), strict=True):
        assert (before.id, before.meta, before.origin) == (after.id, after.meta, after.origin)
        assert [(m.role, m.text) for m in before.messages] == [(m.role, m.text) for m in after.messages]
    assert shown.counts == blank.counts


def test_sounds_are_taken_out_too():
    sample = question_answer("s", "q", "a", media=[Audio(Path("a.wav")), Image(Path("b.png"))])
    assert without_media(sample) == question_answer("s", "q", "a")


def spoil(root: Path, part: str, number: int) -> None:
    (root / part / "images" / f"{number}.png").write_bytes(b"not a picture")


def test_bad_pictures_are_an_error_that_names_each_with_a_sample(root):
    spoil(root, "train", 3)
    (root / "test" / "images" / "1.png").unlink()
    with pytest.raises(DataError, match=r"data\.bad_media=drop leaves their samples out") as caught:
        read_samples(data(root), 0)
    problems = "\n".join(sorted(caught.value.problems))
    assert len(caught.value.problems) == 2
    assert "test/images/1.png: there is no such file (used by sample '1-1' and 3 more" in problems
    assert "train/images/3.png: " in problems and "(used by sample '3-1' and 3 more" in problems


def test_samples_with_bad_pictures_are_dropped_and_counted_when_asked(root):
    whole = read_samples(data(root), 0)
    spoil(root, "train", 3)
    spoil(root, "test", 1)
    samples = read_samples(data(root, bad_media="drop"), 0)
    bad = {root / "train" / "images" / "3.png", root / "test" / "images" / "1.png"}
    assert pictures(everything(samples)) == pictures(everything(whole)) - bad
    assert everything(samples) == [sample for sample in everything(whole) if not pictures([sample]) & bad]
    assert samples.counts["dropped for bad media"] == 8
    assert sum(samples.counts[part] for part in ("train", "validation", "test")) == len(everything(samples))


def test_bad_media_are_replaced_by_blanks_and_counted_when_asked(root):
    whole = read_samples(data(root), 0)
    spoil(root, "train", 3)
    samples = read_samples(data(root, bad_media="blank"), 0)
    assert [sample.id for sample in everything(samples)] == [sample.id for sample in everything(whole)]
    assert samples.counts["blanks in place of bad media"] == 4
    bad = root / "train" / "images" / "3.png"
    shown = {sample.id: sample.media[0].path for sample in [*samples.all_train, *samples.validation]}
    for before in [*whole.all_train, *whole.validation]:
        if before.media[0].path == bad:
            assert load_image(shown[before.id]).size == (224, 224)


def test_a_large_source_is_prepared_as_a_small_one(tmp_path, monkeypatch):
    rows = []
    for number in range(30):
        image_file = tmp_path / f"{number}.png"
        save_picture(image_file, broken=number % 7 == 0)
        turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": f"{number}."}]
        rows.append(json.dumps({"id": str(number), "image": image_file.name, "conversations": turns}))
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    settings = Data.model_validate({"train": str(tmp_path / "a.jsonl"), "validation_share": 0.3, "bad_media": "drop"})
    found = []
    for limit in (2**40, 1):
        monkeypatch.setattr(json_lines, "LARGE_BYTES", limit)
        found.append(read_samples(settings, 0))
    held, lazy = found
    assert isinstance(held.all_train, list) and not isinstance(lazy.all_train, list)
    assert list(lazy.all_train) == held.all_train and list(lazy.validation) == list(held.validation)
    assert lazy.counts == held.counts and held.counts["dropped for bad media"] == 5
    assert held.readers[0].startswith(f"{tmp_path / 'a.jsonl'}: llava, recognised as LLaVA: ")


def save_picture(path: Path, *, broken: bool) -> None:
    PIL.Image.new("RGB", (4, 4), (len(path.name), 0, 0)).save(path)
    if broken:
        path.write_bytes(path.read_bytes()[:40])


def test_a_good_sound_is_kept_beside_a_bad_picture(tmp_path, monkeypatch):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 100, "NONE", ""))
        file.writeframes(bytes(200))
    (tmp_path / "b.png").write_bytes(b"not a picture")
    found = [
        question_answer("heard", "q", "a", media=[Audio(tmp_path / "a.wav")]),
        question_answer("seen", "q", "a", media=[Image(tmp_path / "b.png")]),
    ]
    monkeypatch.setattr(prepare, "read_source", lambda *_, **__: SourceSamples(found, "chat", {}))
    samples = read_samples(data(tmp_path, test=[], validation_share=0, bad_media="drop"), 0)
    assert [sample.id for sample in samples.all_train] == ["heard"]


@pytest.mark.parametrize("changes", [{"validation_share": 0.999999}, {"bad_media": "drop"}])
def test_an_empty_training_source_is_an_error_that_names_it(root, changes):
    if "bad_media" in changes:
        for number in range(12):
            spoil(root, "train", number)
    with pytest.raises(DataError, match="no training samples are left") as caught:
        read_samples(data(root, **changes), 0)
    assert caught.value.problems == [f"{root / 'train'}: lower data.validation_share or mend its media"]


def test_every_source_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_samples(data(tmp_path), 0)


@pytest.fixture
def recipe(tiny_root: Path) -> Recipe:
    return tiny_recipe(tiny_root)


@pytest.fixture
def model(recipe: Recipe) -> MultimodalLM:
    return build_model(recipe)


def test_batches_are_made_as_the_recipe_says(tiny_root, model):
    recipe = tiny_recipe(tiny_root, "training.batch_size=3", "training.length_pool=2", "seed=4", "data.max_tokens=64")
    samples = read_samples(recipe.data, recipe.seed)
    batches = make_batches(recipe, samples, model)
    known = {sample.id for sample in samples.all_train}
    for batch in islice(batches, 6):
        assert len(batch) == 3
        assert {encoded.sample.id for encoded in batch} <= known
        assert all(encoded == model.template.encode(encoded.sample) for encoded in batch)
    assert (batches.pool, batches.seed, batches.too_long.max_tokens) == (2, 4, 64)


def test_samples_with_a_medium_that_has_no_encoder_are_refused_before_any_weight_is_loaded(tiny_root):
    recipe = tiny_recipe(tiny_root, "model.encoders={}", "components.vision.tune=frozen", "model.llm.path=nowhere")
    with pytest.raises(DataError, match=r"the first that holds image; name an encoder: model\.encoders\.image"):
        prepare_training(recipe, QUIET)
