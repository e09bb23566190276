"""What two copies of a model hold in common lies in memory once, and only that."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from cotune.model.shared_weights import share_weights
from tests.decoders import tiny_decoder


def bytes_held(*models: nn.Module) -> int:
    """Return the bytes of all storages of some models, each counted once."""
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for model in models
        for parameter in model.parameters()
    }
    return sum(storages.values())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])  # the last two have one matrix for input and output
@torch.no_grad()
def test_equal_weights_are_held_once_and_nothing_else_changes(family: str) -> None:
    original = tiny_decoder(family)
    copy = deepcopy(original)
    name, changed = list(copy.named_parameters())[3]
    changed.mul_(1.01)
    tokens = torch.randint(0, 40, (2, 7))
    before = [model(tokens).logits for model in (original, copy)]
    assert not torch.equal(*before)
    assert share_weights(copy, original) == changed.nbytes
    assert bytes_held(original, copy) == bytes_held(original) + changed.nbytes
    assert dict(copy.named_parameters())[name] is changed
    for model, logits in zip((original, copy), before, strict=True):
        assert torch.equal(model(tokens).logits, logits)


def test_another_shape_precision_or_name_stays_its_own() -> None:
    original = nn.ModuleDict({"a": nn.Linear(3, 3, False), "b": nn.Linear(3, 3, False), "c": nn.Linear(3, 3, False)})
    copy = nn.ModuleDict({"a": nn.Linear(3, 2, False), "b": deepcopy(original["b"]).half(), "d": original["c"]})
    nn.init.zeros_(original["b"].weight)
    nn.init.zeros_(copy["b"].weight)  # equal numbers, in another precision
    assert share_weights(copy, original) == 6 * 4 + 9 * 2 + 9 * 4
    assert copy["b"].weight.dtype == torch.float16 and original["b"].weight.dtype == torch.float32


def test_to_learn_in_the_original_afterwards_is_seen_in_both_and_what_differs_is_not() -> None:
    original = nn.Linear(2, 2)
    copy = deepcopy(original)
    nn.init.constant_(copy.bias, 7.0)
    assert share_weights(copy, original) == copy.bias.nbytes
    with torch.no_grad():
        original.weight.add_(1.0)
        original.bias.add_(1.0)
    assert torch.equal(copy.weight, original.weight)
    assert copy.bias.eq(7.0).all()
