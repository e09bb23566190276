"""Samples that share rows: the same loss and the same gradients as each in a row of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cotune.adapters.attach import attach
from cotune.adapters.mm_adapter import MMAdapterConfig
from cotune.data.collate import collate, collate_rows
from cotune.data.passes import pack
from cotune.data.template import IGNORED, Encoded
from cotune.errors import ModelError
from cotune.messages import IMAGE, Image, Message, Sample, Text
from cotune.model.cpu_attention import IMPLEMENTATION, attend_on_cpu
from cotune.model.multimodal_lm import MultimodalLM
from tests.decoders import WIDTH, random_tokens, randomize, tiny_decoder

FILLER = 1
FEATURES = 2
ROW = 26


class Sight(nn.Module):
    """An encoder that learns: the picture's number times a matrix."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(1, FEATURES * WIDTH, generator=generator, dtype=torch.float64))

    def features(self, rows: dict[str, Tensor]) -> Tensor:
        return (rows["number"] @ self.weight).tanh().view(-1, FEATURES, WIDTH)


def load(paths: Sequence[Path]) -> dict[str, Tensor]:
    return {"number": torch.tensor([[float(path.stem)] for path in paths], dtype=torch.float64)}


def encoded(number: int, length: int, pictures: Sequence[int], learned: int) -> Encoded:
    """A sample of random tokens whose pictures stand at its start, its last tokens learned."""
    parts = tuple(Image(Path(f"{picture}.png")) for picture in pictures)
    tokens = random_tokens(length + 1, seed=number).tolist()
    spans = [(place * FEATURES, (place + 1) * FEATURES) for place in range(len(parts))]
    targets = [IGNORED] * (length - learned) + tokens[length - learned + 1 :]
    return Encoded(tokens[:-1], targets, spans, Sample(str(number), (Message("user", (*parts, Text("t"))),)))


BATCH = [
    encoded(0, 7, [], 2),
    encoded(1, 9, [3], 3),
    encoded(2, 5, [], 1),
    encoded(3, 12, [1, 2], 4),
    encoded(4, 6, [3], 1),
    encoded(5, 8, [], 5),
]


def joined(family: str, tune: str, attention: str) -> MultimodalLM:
    llm = tiny_decoder(family)
    if attention == IMPLEMENTATION:
        attend_on_cpu(llm)
    else:
        llm.set_attn_implementation(attention)
    adapters = None
    if tune == "full":
        llm.requires_grad_(True)
    else:
        mode: Any = tune.partition("-")[0]
        weights: Any = "inline" if tune.endswith("inline") else "table"
        config = MMAdapterConfig(rank=4, routing=mode, text="trained", weights=weights, temperature=1.0)
        adapters = attach(llm, config, ["text", "image"]).double()
        randomize(adapters, size=0.3)
    template: Any = SimpleNamespace(filler=FILLER, stop_ids=set())
    encoders: Any = {IMAGE: Sight()}
    connectors: Any = {IMAGE: nn.Identity()}
    return MultimodalLM(llm, template, encoders, connectors, adapters)


def loss_and_gradients(model: MultimodalLM, rows: list[list[Encoded]]) -> tuple[float, dict[str, Tensor]]:
    batch = collate_rows(rows, FILLER, {IMAGE: load})
    model.zero_grad()
    logits, targets = model(batch)
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa", IMPLEMENTATION])
@pytest.mark.parametrize("tune", ["hard", "soft", "soft-inline", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_packed_and_unpacked_give_the_same_loss_and_gradients(family: str, tune: str, attention: str) -> None:
    model = joined(family, tune, attention)
    rows = pack(BATCH, ROW)
    assert len(rows) == 2 and any(len({item.sample.modality for item in row}) == 2 for row in rows)
    alone, expected = loss_and_gradients(model, [[item] for item in BATCH])
    together, found = loss_and_gradients(model, rows)
    # Logits are made fp32, as in training; everything in front of them is float64.
    assert together == pytest.approx(alone, rel=1e-6)
    assert expected.keys() == found.keys() and "encoders.image.weight" in found
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-9)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "bloom"])
def test_families_with_windows_or_positions_of_other_kinds_pack_as_well(family: str) -> None:
    model = joined(family, "hard", "eager")
    alone, _ = loss_and_gradients(model, [[item] for item in BATCH])
    together, _ = loss_and_gradients(model, pack(BATCH, ROW))
    assert together == pytest.approx(alone, rel=1e-6)


def test_without_segments_the_loss_would_be_another() -> None:
    model = joined("llama", "hard", "sdpa")
    alone, _ = loss_and_gradients(model, [[item] for item in BATCH])
    batch = collate_rows(pack(BATCH, ROW), FILLER, {IMAGE: load})
    batch.packing = None
    logits, targets = model(batch)
    assert abs(functional.cross_entropy(logits, targets, reduction="sum").item() - alone) > 1e-3 * alone


def test_a_model_whose_positions_say_nothing_refuses_packed_rows_without_adapters() -> None:
    model = joined("bloom", "full", "eager")
    with pytest.raises(ModelError, match=r"cannot keep several sequences in one row apart.*only adapters reach"):
        loss_and_gradients(model, pack(BATCH, ROW))


def test_rows_of_one_sample_each_are_the_batch_as_ever() -> None:
    rows = collate_rows([[item] for item in BATCH], FILLER, {IMAGE: load})
    plain = collate(BATCH, FILLER, {IMAGE: load})
    assert rows.packing is None and rows.tokens.equal(plain.tokens) and rows.modalities == plain.modalities


def test_segments_say_whose_each_token_is_and_modalities_whose_each_sample() -> None:
    batch = collate_rows([[BATCH[0], BATCH[1]], [BATCH[2]]], FILLER, {IMAGE: load})
    assert batch.packing is not None
    assert batch.packing.segments.tolist() == [[0] * 7 + [1] * 9, [0] * 5 + [-1] * 11]
    assert batch.packing.modalities == [["text", "image"], ["text"]]
    assert batch.lengths == [16, 5]
    assert batch.features[IMAGE].mask.nonzero().tolist() == [[0, 7], [0, 8]]
    assert batch.targets[0].tolist() == [*BATCH[0].targets, *BATCH[1].targets]


@pytest.mark.parametrize("rows", [[[0], [1], [2], [3]], [[0, 1, 2], [3]], [[0], [1, 3], [2]]])
def test_every_token_that_carries_loss_knows_its_sample_row_by_row(rows: list[list[int]]) -> None:
    batch = collate_rows([[BATCH[number] for number in row] for row in rows], FILLER, {IMAGE: load})
    order = [number for row in rows for number in row]
    expected = [place for place, number in enumerate(order) for _ in range(BATCH[number].answer_tokens)]
    assert batch.samples_of_loss().tolist() == expected
