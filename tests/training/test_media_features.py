"""Encoded media of a run: what the encoders give, within the room there is, and the connector's statistics of it."""

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cotune.data.media import load_image
from cotune.model.loading import build_model
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Data
from cotune.training import media_features
from cotune.training.media_features import prepare_media, standardize_connectors
from tests.tiny import save_questions, tiny_recipe

QUIET = Console(quiet=True)
DATA = Data(train="nowhere")


@pytest.fixture
def model(tiny_root: Path) -> MultimodalLM:
    return build_model(tiny_recipe(tiny_root))


@torch.no_grad()
def naive_features(model: MultimodalLM, path: Path) -> torch.Tensor:
    """The features of one picture, past any cache."""
    encoder = model.encoder("image")
    return encoder.features(encoder.trunk(encoder.preprocess(load_image(path)).unsqueeze(0)))


@pytest.mark.parametrize("tune", ["adapters", "frozen", "full"])
def test_loaded_pictures_give_the_features_of_the_encoder(tiny_root, tune):
    model = build_model(tiny_recipe(tiny_root, f"components.vision.tune={tune}")).eval()
    paths = sorted((tiny_root / "train" / "images").glob("*.png"))
    load = prepare_media(model, {"image": paths}, DATA, QUIET)["image"]
    wanted = [paths[2], paths[0], paths[2]]
    with torch.no_grad():
        features = model.encoder("image").features(load(wanted))
    expected = torch.cat([naive_features(model, path) for path in wanted])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_pictures_there_is_no_room_for_are_encoded_for_every_batch_and_the_console_says_so(tiny_root, model):
    paths = sorted((tiny_root / "train" / "images").glob("*.png"))
    console = Console(file=StringIO(), width=200)
    none = prepare_media(model, {"image": paths}, DATA.model_copy(update={"kept_features_gb": 0.0}), console)["image"]
    all_kept = prepare_media(model, {"image": paths}, DATA, QUIET)["image"]
    assert (len(none), len(all_kept)) == (0, len(paths))
    said = " ".join(console.file.getvalue().split())
    assert f"kept for 0 of {len(paths):,} files" in said and "data.kept_features_gb=1" in said
    wanted = [paths[2], paths[0], paths[2]]
    for name, rows in none(wanted).items():
        torch.testing.assert_close(rows, all_kept(wanted)[name], rtol=1e-4, atol=1e-5)


def test_a_text_model_and_text_data_need_no_pictures(tiny_root, model):
    assert prepare_media(model, {}, DATA, QUIET) == {}
    text = build_model(tiny_recipe(tiny_root, "model.encoders={}", "components.vision.tune=frozen"))
    assert prepare_media(text, {}, DATA, QUIET) == {}
    standardize_connectors(text, {}, {})


def test_the_connector_is_standardised_by_mean_and_deviation_of_all_training_features(tmp_path, model, monkeypatch):
    paths = sorted((save_questions(tmp_path / "d", 9) / "images").glob("*.png"))
    monkeypatch.setattr(media_features, "_STATISTICS_CHUNK", 4)
    standardize_connectors(model, prepare_media(model, {"image": paths}, DATA, QUIET), {"image": paths})
    rows = torch.cat([naive_features(model, path) for path in paths]).flatten(0, 1).double()
    torch.testing.assert_close(model.connector("image").mean, rows.mean(0).float(), rtol=1e-4, atol=1e-5)
    deviation = rows.std(0, correction=0)
    # A channel that is constant up to rounding is left as it is, not blown up.
    deviation = torch.where(deviation < 1e-5 * rows.mean(0).abs().clamp_min(1), 1.0, deviation).float()
    torch.testing.assert_close(model.connector("image").deviation, deviation, rtol=1e-3, atol=1e-4)


def test_of_very_many_pictures_some_that_lie_evenly_give_the_statistics(tmp_path, model, monkeypatch):
    paths = sorted((save_questions(tmp_path / "d", 9) / "images").glob("*.png"))
    monkeypatch.setattr(media_features, "_MOST_FOR_STATISTICS", 4)
    loaders = prepare_media(model, {"image": paths}, DATA, QUIET)
    standardize_connectors(model, loaders, {"image": paths})
    some = model.connector("image").mean.clone()
    monkeypatch.setattr(media_features, "_MOST_FOR_STATISTICS", 9)
    standardize_connectors(model, loaders, {"image": paths[::3]})
    assert some.equal(model.connector("image").mean)
