"""Which weights answer for which modality: folded where memory allows, and said where not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cotune.adapters.sites import decoder
from cotune.model.loading import build_model
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.ways import find_ways
from tests.model.test_joined_media import fresh
from tests.tiny import joined_recipe


@pytest.fixture(scope="module")
def model(tiny_root: Path) -> MultimodalLM:
    return fresh(tiny_root)


def test_each_modality_is_folded_but_the_one_that_is_the_base_model(model: MultimodalLM) -> None:
    said: list[str] = []
    ways = find_ways(model, fold=True, say=said.append)
    assert {name: way.path for name, way in ways.items()} == {
        "text": "base",
        "audio": "folded",
        "image": "folded",
        "audio+image": "folded",
    }
    assert [line.split(",")[0] for line in said] == ["Folded: audio", "Folded: image", "Folded: audio+image"]
    assert ways["text"].body is decoder(model.llm)


def test_folded_weights_take_memory_for_what_differs_only(model: MultimodalLM) -> None:
    own = {parameter.data_ptr() for parameter in model.llm.parameters()}
    before = {name: parameter.clone() for name, parameter in model.llm.named_parameters()}
    body = find_ways(model, fold=True, say=lambda _: None)["image"].body
    new = {name for name, parameter in body.named_parameters() if parameter.data_ptr() not in own}
    # An adapter stands in front of the attention, whose three projections read what it makes. Their biases are new.
    weights = [name.split(".")[-2] for name in new if name.endswith(".weight")]
    assert sorted(weights) == sorted(["q_proj", "k_proj", "v_proj"] * len(list(body.layers)))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.llm.named_parameters())


def test_without_the_memory_everything_stays_routed_and_that_is_said(model: MultimodalLM) -> None:
    said: list[str] = []
    ways = find_ways(model, fold=True, say=said.append, free_bytes=lambda: 1000)
    assert {way.path for way in ways.values()} == {"base", "routed"}
    assert len(said) == 1 and "GiB are free" in said[0]


def test_when_it_is_not_wanted_nothing_is_folded(model: MultimodalLM) -> None:
    said: list[str] = []
    assert {way.path for way in find_ways(model, fold=False, say=said.append).values()} == {"base", "routed"}
    assert not said


@pytest.mark.parametrize("tune, path", [("frozen", "base"), ("lora", "tuned"), ("full", "tuned")])
def test_without_adapters_there_is_nothing_to_fold_or_route(tiny_root: Path, tune: str, path: str) -> None:
    model = build_model(joined_recipe(tiny_root, f"components.llm.tune={tune}")).eval()
    ways = find_ways(model, fold=True, say=lambda _: None)
    assert {(way.path, way.routes, tuple(way.routing)) for way in ways.values()} == {(path, False, ())}


def test_a_quantised_model_is_not_unpacked(model: MultimodalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.llm, "is_quantized", True, raising=False)
    said: list[str] = []
    assert "folded" not in {way.path for way in find_ways(model, fold=True, say=said.append).values()}
    assert "quantised" in said[0]
