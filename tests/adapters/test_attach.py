"""Attaching to decoders of many families: the right sites, nothing changed at the start, everything learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotune.adapters import AdapterHandle, MMAdapterConfig, attach
from cotune.adapters.attach import find_sites
from cotune.errors import ModelError
from tests.decoders import LAYERS, random_tokens, randomize, tiny_decoder

FAMILIES = {
    "llama": ("model.layers.{}.self_attn", "model.layers.{}.mlp"),
    "qwen2": ("model.layers.{}.self_attn", "model.layers.{}.mlp"),
    "gpt2": ("transformer.h.{}.attn", "transformer.h.{}.mlp"),
    "gpt_neox": ("gpt_neox.layers.{}.attention", "gpt_neox.layers.{}.mlp"),
    "phi": ("model.layers.{}.self_attn", "model.layers.{}.mlp"),
    "falcon": ("transformer.h.{}.self_attention", "transformer.h.{}.mlp"),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def config(**options: Any) -> MMAdapterConfig:
    return MMAdapterConfig(rank=4, **options)


def logits(llm: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return llm(tokens, use_cache=False).logits  # type: ignore[no-any-return]


@every_family
@pytest.mark.parametrize("placement", ["attention", "block"])
def test_the_sites_are_every_layers_attention_and_in_block_placement_its_mlp(family: str, placement: str) -> None:
    llm = tiny_decoder(family)
    patterns = FAMILIES[family] if placement == "block" else FAMILIES[family][:1]
    expected = [pattern.format(layer) for layer in range(LAYERS) for pattern in patterns]
    sites = find_sites(llm, placement)
    assert [site.name for site in sites] == expected
    assert all(site.module is llm.get_submodule(site.name) for site in sites)


@every_family
@pytest.mark.parametrize("options", [{}, {"routing": "soft"}, {"placement": "block"}])
def test_a_fresh_attachment_changes_no_bit_and_a_detached_one_leaves_none(family: str, options: dict[str, Any]) -> None:
    llm, tokens = tiny_decoder(family), random_tokens(2, 5)
    before = logits(llm, tokens)
    handle = attach(llm, config(**options), ["text", "image"])
    with handle.modality("image"):
        assert logits(llm, tokens).equal(before)
        randomize(handle)
        assert not torch.allclose(logits(llm, tokens), before)
    handle.detach()
    assert logits(llm, tokens).equal(before)


@every_family
@pytest.mark.parametrize("placement", ["attention", "block"])
def test_only_the_adapters_are_trainable_and_each_of_them_gets_a_gradient(family: str, placement: str) -> None:
    llm, tokens = tiny_decoder(family), random_tokens(2, 5)
    handle = attach(llm, config(placement=placement), ["text", "image"])
    assert not any(parameter.requires_grad for parameter in llm.parameters())
    assert all(parameter.requires_grad for parameter in handle.parameters())
    assert len(handle.adapters) == LAYERS * (2 if placement == "block" else 1)
    randomize(handle)
    handle.rows(["image", "text"])
    llm(tokens, labels=tokens, use_cache=False).loss.backward()
    for name, parameter in handle.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_family
def test_an_adapter_rewrites_exactly_what_its_attention_module_receives(family: str) -> None:
    llm, tokens = tiny_decoder(family), random_tokens(1, 4)
    handle = attach(llm, config(), ["text", "image"]).double()
    randomize(handle)
    seen: list[Tensor] = []

    def record(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    # Hooks run in order of registration: one in front of the adapter's, one behind it.
    handle.sites[1].module.register_forward_pre_hook(record, with_kwargs=True, prepend=True)
    handle.sites[1].module.register_forward_pre_hook(record, with_kwargs=True)
    with handle.modality("image"):
        logits(llm, tokens)
        received, given = seen
        torch.testing.assert_close(given, handle.adapters[1](received))
    assert not torch.allclose(received, given)


def gradients(llm: Any, handle: AdapterHandle, tokens: Tensor, names: list[str]) -> dict[str, Tensor]:
    handle.zero_grad()
    handle.rows(names)
    llm(tokens, labels=tokens, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in handle.named_parameters() if parameter.grad is not None}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("routing", ["hard", "soft"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, routing: str) -> None:
    llm, tokens = tiny_decoder(family), random_tokens(2, 5)
    handle = attach(llm, config(routing=routing, temperature=1.0), ["text", "image"]).double()
    randomize(handle)
    llm.train()
    plain = gradients(llm, handle, tokens, ["image", "text"])
    llm.gradient_checkpointing_enable({"use_reentrant": False})
    passes = 0

    def count(module: nn.Module, args: Any) -> None:
        nonlocal passes
        passes += module.training

    handle.sites[0].module.register_forward_pre_hook(count)
    checkpointed = gradients(llm, handle, tokens, ["image", "text"])
    assert passes == 2  # forward, and again in backward: checkpointing was at work
    assert llm.training
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_modality_restores_the_route_in_force_before_also_after_an_error() -> None:
    llm, tokens = tiny_decoder(), random_tokens(1, 4)
    handle = attach(llm, config(), ["text", "image"]).double()
    randomize(handle)
    handle.rows(["image"])
    routed = logits(llm, tokens)
    with pytest.raises(KeyError), handle.modality("text"):
        raise KeyError
    assert logits(llm, tokens).equal(routed)


def test_running_the_model_before_any_route_is_set_is_an_error() -> None:
    llm = tiny_decoder()
    attach(llm, config(), ["text", "image"])
    with pytest.raises(RuntimeError, match="without a route"):
        logits(llm, random_tokens(1, 4))


class Layer(nn.Module):
    """A decoder layer whose parts have unusual names."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Strange(nn.Module):
    """A decoder of two layers of given parts."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        from transformers import LlamaConfig

        self.config = LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        self.blocks = nn.ModuleList(layers)


def test_a_model_without_attention_modules_is_an_error_that_names_what_was_looked_for() -> None:
    with pytest.raises(ModelError, match=r"Strange: no list of 2 layers.*self_attn, self_attention.*it holds: blocks"):
        find_sites(Strange(Layer(mixer=nn.Identity()), Layer(mixer=nn.Identity())), "attention")


def test_a_layer_without_its_part_is_an_error_that_names_the_layer_and_what_it_holds() -> None:
    hybrid = Strange(Layer(self_attn=nn.Identity()), Layer(mixer=nn.Identity()))
    with pytest.raises(ModelError, match=r"blocks\.1: looked for one of self_attn.*the layer holds mixer"):
        find_sites(hybrid, "attention")
    bare = Strange(Layer(attn=nn.Identity()), Layer(attn=nn.Identity()))
    with pytest.raises(ModelError, match=r"blocks\.0: looked for one of mlp.*the layer holds attn"):
        find_sites(bare, "block")


def test_a_module_that_is_no_language_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="Linear has no configuration"):
        attach(nn.Linear(2, 2), config(), ["text"])
