"""Compiled norms and gated layers: against float64, in a model that learns, and where nothing can be compiled."""

from __future__ import annotations

import copy
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor

from cotune.errors import ModelError
from cotune.model import layer_kernels as module
from cotune.model.layer_kernels import PLAIN, Kernels, compiled
from cotune.model.lean_layers import keep_less
from cotune.model.loading import build_model, load_llm
from tests.decoders import tiny_decoder
from tests.tiny import tiny_recipe

needs_a_compiler = pytest.mark.skipif(which("g++") is None, reason="there is no C++ compiler")


def exact(hidden: Tensor, gate: Tensor, up: Tensor, weight: Tensor, outers: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the outputs of norm and gate and all gradients in float64, by autograd and from the formulas alone."""
    tensors = [tensor.double().requires_grad_() for tensor in (hidden, gate, up)]
    normed = weight.double() * tensors[0] / (tensors[0].square().mean(-1, keepdim=True) + 1e-5).sqrt()
    gated = tensors[1] * tensors[1].sigmoid() * tensors[2]
    found = torch.autograd.grad((normed, gated), tensors, [outer.double() for outer in outers])
    return [normed.detach(), gated.detach(), *found]


def by(kernels: Kernels, hidden: Tensor, gate: Tensor, up: Tensor, weight: Tensor, outers: Any) -> list[Tensor]:
    """Return the same by some kernels."""
    normed, scale = kernels.norm(hidden, weight, 1e-5)
    of_hidden = kernels.norm_gradient(outers[0], hidden, weight, scale)
    return [normed, kernels.gate(gate, up), of_hidden, *kernels.gate_gradients(outers[1], gate, up)]


@needs_a_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_is_as_near_to_the_exact_values_as_written(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kernels = compiled(torch.device("cpu"), dtype)
    for rows in (1, 7, 130):
        hidden, of_norm = torch.randn(2, rows, 48).to(dtype)
        gate, up, of_gate = torch.randn(3, rows, 80).to(dtype)
        given = hidden, gate, up, torch.randn(48).to(dtype), (of_norm, of_gate)
        for one, other, right in zip(by(kernels, *given), by(PLAIN, *given), exact(*given), strict=True):
            assert one.dtype == dtype
            assert (one - right).norm() <= 1.05 * (other - right).norm() + 1e-6 * right.norm()


@needs_a_compiler
def test_compiling_changes_nothing_that_is_drawn_afterwards(tiny_root: Path) -> None:
    models = [build_model(tiny_recipe(tiny_root, f"model.llm.compile={choice}")) for choice in ("false", "true")]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


@needs_a_compiler
def test_a_model_learns_by_compiled_layers_and_says_the_same_bits_without_a_gradient() -> None:
    llm = tiny_decoder("qwen3").float().requires_grad_(False)  # its norms see [batch, tokens, heads, width] too
    plain = copy.deepcopy(llm)
    assert keep_less(llm, compiled(torch.device("cpu"), torch.float32)) == keep_less(plain) > 0
    llm = copy.deepcopy(llm)  # as folding copies it
    embeddings = torch.randn(2, 7, llm.get_input_embeddings().embedding_dim)
    gradients = []
    for model in (llm, plain):
        given = embeddings.clone().requires_grad_()
        model(inputs_embeds=given).logits.log_softmax(-1)[..., 0].sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert llm(inputs_embeds=embeddings).logits.equal(plain(inputs_embeds=embeddings).logits)


def test_the_recipe_decides(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []

    def watched(device: torch.device, dtype: torch.dtype) -> Kernels:
        asked.append(dtype)
        return PLAIN

    monkeypatch.setattr("cotune.model.loading.compiled", watched)
    build_model(tiny_recipe(tiny_root))
    assert not asked
    load_llm(tiny_recipe(tiny_root, "model.llm.compile=true", "model.llm.dtype=float16").model.llm)
    assert asked == [torch.float16]


def test_without_a_compiler_it_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("No C++ compiler\nand much more")

    monkeypatch.setattr(module.torch, "compile", lambda *_, **__: broken)
    with pytest.raises(ModelError, match=r"model\.llm\.compile.*apt install g\+\+.*No C\+\+ compiler$"):
        compiled(torch.device("cpu"), torch.float32)
