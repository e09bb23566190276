"""The GPU benchmark: refused where there is no GPU, and the same code on a tiny shape on the CPU."""

import json

import lavin_gpu
import pytest
import random_lavin
import torch
from torch import nn

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would run")
def test_without_a_gpu_it_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lavin_gpu.py"])
    with pytest.raises(SystemExit, match=r"needs a CUDA GPU that computes in bfloat16.*--shape tiny --device cpu"):
        lavin_gpu.main()


def test_too_little_memory_is_refused_with_the_key_to_lower(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a small GPU")
    recipe = lavin_gpu.find_recipe("lavin-7b", lavin_gpu.WAYS["bf16"])
    why = lavin_gpu.refusal({"bf16": recipe}, torch.device("cuda"))
    assert why is not None
    assert "24 GB are free on a small GPU; lower training.micro_batch_tokens (now 8192)" in why


def test_the_tiny_shape_runs_the_same_code(tmp_path):
    pytest.importorskip("bitsandbytes")
    target = tmp_path / "lavin.json"
    lavin_gpu.run("tiny", CPU, ["bf16", "nf4"], rounds=1, output=target)
    found = json.loads(target.read_text())
    for mode in ("bf16", "nf4"):
        part = found["modes"][mode]
        assert part["tokens_per_second"] > 0
        # Hours are those of 20 epochs of 12,726 samples at that speed.
        tokens = 20 * 12_726 * part["mean_length"]
        assert part["hours"] == pytest.approx(tokens / part["tokens_per_second"] / 3600)
    assert 0 < found["bf16_share_of_peak"] < 1


def test_the_base_in_four_bits_is_near_the_wide_one_and_frozen():
    pytest.importorskip("bitsandbytes")
    recipe = lavin_gpu.find_recipe("lavin-7b", [*lavin_gpu.TINY, *lavin_gpu.WAYS["bf16"]])
    narrow = recipe.model_copy(deep=True)
    narrow.model.llm.quantize = "nf4"
    wide, packed = (random_lavin.build(one, CPU) for one in (recipe, narrow))
    layers = [module for module in packed.llm.model.modules() if type(module).__name__ == "Linear4bit"]
    assert len(layers) == 2 * 7
    assert type(packed.llm.lm_head) is nn.Linear
    assert not any(parameter.requires_grad for parameter in packed.llm.parameters())
    hidden = torch.randn(5, 64, dtype=torch.bfloat16)
    one, other = (model.llm.model.layers[1].mlp.gate_proj(hidden) for model in (wide, packed))
    difference = (one - other).norm() / one.norm()
    assert 0 < difference < 0.2
