"""A recipe's model with random weights, made on the device itself, its base in 4 bits where the recipe says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from cotune.adapters.sites import decoder
from cotune.data.template import Template
from cotune.messages import IMAGE
from cotune.model.encoders import load_encoder
from cotune.model.fitting import fitting_settings
from cotune.model.loading import make_connector, tune_of
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.tuning import tune_language_model
from cotune.recipe import Recipe

# Samples come as tokens: nothing is ever tokenised.
NO_TOKENIZER = SimpleNamespace(chat_template=None, eos_token_id=None, pad_token_id=0)


def build(recipe: Recipe, device: torch.device) -> MultimodalLM:
    """Return the recipe's model of one image encoder, by the shapes it names, with fresh adapters."""
    torch.manual_seed(recipe.seed)
    settings = recipe.model.encoders.image
    assert settings is not None and settings.shape is not None and recipe.model.llm.shape is not None
    with device:
        encoder = load_encoder(
            IMAGE, settings.path, settings.model_copy(update={"weights": "random"}), tune_of(recipe, IMAGE)
        )
        llm = language_model(dict(recipe.model.llm.shape), getattr(torch, recipe.model.llm.dtype))
    if recipe.model.llm.quantize:
        quantize(llm)
    connector = make_connector(recipe, llm, encoder).to(device)
    adapters = tune_language_model(recipe, llm)
    template = Template(NO_TOKENIZER, {IMAGE: encoder.tokens})
    model = MultimodalLM(llm, template, {IMAGE: encoder}, {IMAGE: connector}, adapters)
    model.settings = fitting_settings(recipe)
    if recipe.training.gradient_checkpointing:
        model.checkpoint_gradients()
    return model


def language_model(shape: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return a frozen language model of a shape, on the default device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**shape)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False).eval()


def quantize(llm: nn.Module) -> None:
    """Replace the decoder's linear layers by 4-bit ones with the same weights: nf4, its constants quantised too.

    That is what `cotune.model.quantization` asks of `from_pretrained`, layer by layer.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in list(decoder(llm).modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is not nn.Linear:
                continue
            wide = layer.weight
            options = {"compress_statistics": True, "quant_type": "nf4"}
            narrow = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, wide.dtype, device="meta", **options
            )
            narrow.weight = Params4bit(wide.data, requires_grad=False, module=narrow, **options).to(wide.device)
            narrow.bias = layer.bias
            setattr(module, name, narrow)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
