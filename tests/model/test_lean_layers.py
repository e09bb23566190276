"""Norms and gated layers that keep less: the very output, the same gradients, fewer bytes held."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from cotune.model.lean_layers import keep_less
from tests.decoders import FAMILIES, SINGLE_PRECISION, tiny_decoder

# How many layers of two tell that a family's norms and gated layers are known, none where they are others.
KNOWN = {"llama": 2 * 3 + 1, "qwen2": 2 * 3 + 1, "qwen3": 2 * 5 + 1, "mistral": 2 * 3 + 1, "gemma2": 0, "gpt2": 0}


def norm(dtype: torch.dtype, width: int = 96) -> LlamaRMSNorm:
    """Return a norm with a random gain."""
    made = LlamaRMSNorm(width, 1e-5).to(dtype)
    nn.init.normal_(made.weight)
    return made.requires_grad_(False)


def gated(dtype: torch.dtype) -> LlamaMLP:
    """Return a gated layer with random weights."""
    return LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=80)).to(dtype).requires_grad_(False)


def lean(module: nn.Module) -> nn.Module:
    """Return a copy of a layer that keeps less."""
    holder = nn.ModuleList([copy.deepcopy(module)])
    assert keep_less(holder) == 1
    return holder[0]


def run(module: nn.Module, hidden: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's output and the gradient of its input."""
    hidden = hidden.clone().requires_grad_()
    output = module(hidden)
    output.backward(outer.to(output))
    assert hidden.grad is not None
    return output.detach(), hidden.grad


def kept_bytes(module: nn.Module, hidden: Tensor) -> int:
    """Return the bytes that autograd keeps of a layer's call, weights not counted, every memory once."""
    sizes: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _alive = module(hidden.clone().requires_grad_())
    return sum(sizes.values())


CASES = [(norm, 96), (gated, 32)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("make", "width"), CASES)
def test_the_output_has_the_same_bits_and_the_gradient_is_as_near_to_the_exact_one(
    make: Any, width: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = make(dtype)
    hidden, outer = torch.randn(2, 3, 40, width).to(dtype)
    (output, gradient), (expected, of_autograd) = run(lean(plain), hidden, outer), run(plain, hidden, outer)
    assert output.equal(expected) and gradient.dtype == dtype
    exact_layer = copy.deepcopy(plain).double()
    if isinstance(exact_layer, LlamaRMSNorm):  # transformers' computes in float32, whatever it is given
        exact_layer.forward = lambda x: exact_layer.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    _, exact = run(exact_layer, hidden.double(), outer.double())
    assert (gradient - exact).norm() <= 1.1 * (of_autograd - exact).norm() + 1e-7 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_is_kept_for_the_backward_pass(dtype: torch.dtype) -> None:
    tokens, bytes_each = 64, dtype.itemsize
    hidden = torch.randn(1, tokens, 96).to(dtype)
    small = norm(dtype)
    assert kept_bytes(lean(small), hidden) == tokens * (96 * bytes_each + 4) <= kept_bytes(small, hidden)
    assert dtype == torch.float32 or kept_bytes(small, hidden) > tokens * 2 * 96 * bytes_each  # its copy in float32
    hidden, wide = torch.randn(1, tokens, 32).to(dtype), gated(dtype)
    assert kept_bytes(lean(wide), hidden) == tokens * 2 * 80 * bytes_each < kept_bytes(wide, hidden)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_model_says_and_learns_what_it_did_before(family: str) -> None:
    torch.manual_seed(0)
    llm = tiny_decoder(family)
    llm = llm.float() if family in SINGLE_PRECISION else llm
    width = llm.get_input_embeddings().embedding_dim
    embeddings = torch.randn(2, 7, width, dtype=next(llm.parameters()).dtype)
    plain = copy.deepcopy(llm)
    changed = keep_less(llm)
    for model in (llm, plain):
        model.requires_grad_(False)
    assert changed == KNOWN.get(family, changed)
    found = []
    for model in (llm, plain):
        given = embeddings.clone().requires_grad_()
        logits = model(inputs_embeds=given).logits
        logits.double().log_softmax(-1)[..., 0].sum().backward()
        found.append((logits.detach(), given.grad))
    assert found[0][0].equal(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_a_copy_of_a_model_is_its_own() -> None:
    llm = tiny_decoder("llama")
    keep_less(llm)
    again = copy.deepcopy(llm)
    layer = again.model.layers[0]
    assert layer.mlp.forward.__self__ is layer.mlp and layer.input_layernorm.forward.__self__ is layer.input_layernorm


def test_a_gain_that_learns_gets_its_gradient() -> None:
    hidden = torch.randn(2, 5, 96)
    plain = norm(torch.float32).requires_grad_()
    light = lean(plain)
    for module in (plain, light):
        module(hidden.clone().requires_grad_()).square().sum().backward()
    assert plain.weight.grad is not None
    assert light.weight.grad.equal(plain.weight.grad)


def test_a_norm_whose_gain_is_applied_otherwise_is_left_alone_though_it_may_look_alike() -> None:
    class Offset(LlamaRMSNorm):  # as Gemma's: the gain is 1 + weight
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) + hidden_states

    class WideGain(LlamaRMSNorm):  # rounded behind the gain: equal bits for a gain of ones
        def forward(self, hidden_states: Tensor) -> Tensor:
            wide = hidden_states.float()
            scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return (self.weight.float() * (wide * scale)).to(hidden_states.dtype)

    others = [Offset(16), WideGain(16).bfloat16(), Gemma2RMSNorm(16), nn.RMSNorm(16, eps=1e-6).bfloat16()]
    assert keep_less(nn.ModuleList(others)) == 0
    assert all("forward" not in vars(other) for other in others)


def test_a_gated_layer_with_more_in_it_is_left_alone() -> None:
    class Normed(LlamaMLP):
        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            self.inner = nn.LayerNorm(config.intermediate_size)

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.inner(self.act_fn(self.gate_proj(x)) * self.up_proj(x)))

    other = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=80, hidden_act="gelu"))
    normed = Normed(LlamaConfig(hidden_size=32, intermediate_size=80)).half()
    assert keep_less(nn.ModuleList([normed])) == 0
    assert all(tensor.dtype == torch.float16 and tensor.requires_grad for tensor in normed.parameters())
    assert normed.gate_proj.out_features == 80
    assert keep_less(nn.ModuleList([other])) == 0


def test_a_model_of_shapes_only_is_changed_as_the_real_one_will_be() -> None:
    for family in ("llama", "gemma2", "olmo2"):
        with torch.device("meta"):
            shapes = tiny_decoder(family)
        assert keep_less(shapes) == keep_less(tiny_decoder(family))
