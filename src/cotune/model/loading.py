"""Builds the model a recipe describes: language model, encoder, connector, adapters, each as its component says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cotune.adapters.sites import text_config
from cotune.data.template import Template
from cotune.errors import ModelError, first_line
from cotune.messages import IMAGE
from cotune.model.checkpoint import check_settings, load_checkpoint
from cotune.model.connector import Connector
from cotune.model.cpu_attention import attend_on_cpu
from cotune.model.encoders import FeatureEncoder, load_encoder
from cotune.model.fitting import fitting_settings
from cotune.model.layer_kernels import PLAIN, compiled
from cotune.model.lean_layers import keep_less
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.quantization import quantization
from cotune.model.tuning import tune_language_model
from cotune.quickstart.resolve import resolve
from cotune.recipe import COMPONENT_MEDIUM, LanguageModel, Recipe, Tune


def build_model(recipe: Recipe, device: torch.device | None = None) -> MultimodalLM:
    """Return the model of a recipe with fresh adapters, on `device` or else on the GPU when there is one.

    Raises:
        ModelError: when a model cannot be loaded, or lacks what the recipe asks of it.
        AssetError: when a quickstart package cannot be fetched.
    """
    torch.manual_seed(recipe.seed)
    device = device or default_device()
    # First, because they are small: a wrong tap is then found before the language model is read.
    encoders = _encoders(recipe)
    llm = load_llm(recipe.model.llm, device)
    tokenizer = load_tokenizer(recipe.model.llm)
    connectors = {medium: make_connector(recipe, llm, encoder) for medium, encoder in encoders.items()}
    adapters = tune_language_model(recipe, llm)
    media_tokens = {medium: encoder.tokens for medium, encoder in encoders.items()}
    template = Template(tokenizer, media_tokens, recipe.model.llm.chat_template)
    model = MultimodalLM(llm, template, encoders, connectors, adapters)
    model.settings = fitting_settings(recipe)
    model.off_by_one_positions = recipe.model.legacy.decode_positions == "off-by-one"
    if recipe.training.gradient_checkpointing:
        model.checkpoint_gradients()
    return model.to(device)


def default_device() -> torch.device:
    """Return where a model goes that is not told where: the GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tuned(recipe: Recipe, adapter: Path) -> MultimodalLM:
    """Return the model of a run with its trained weights, ready to answer.

    Raises:
        CheckpointError: when the adapter does not fit the recipe's models; tuned with other settings, it is refused
            before any weights are read.
    """
    check_settings(recipe, adapter)
    model = build_model(recipe)
    load_checkpoint(model, adapter)
    return model.eval()


def load_llm(settings: LanguageModel, device: torch.device | None = None) -> Any:
    """Return the frozen language model in evaluation mode, in the recipe's precision, not yet moved anywhere.

    On a CPU it attends by `cpu_attention`. Models that are compared must be loaded for the same device: kernels round
    in different ways.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # our own status line stands there
    path, dtype = resolve(settings.path), getattr(torch, settings.dtype)
    device = device or default_device()
    kernels = compiled(device, dtype) if settings.compile else PLAIN  # first: it may be impossible here
    try:
        llm = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **quantization(settings.quantize, dtype))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"model.llm.path: '{settings.path}' cannot be loaded: {first_line(error)}") from error
    if device.type == "cpu":
        attend_on_cpu(llm)
    keep_less(llm, kernels)
    return llm.requires_grad_(False).eval()


def load_tokenizer(settings: LanguageModel) -> Any:
    """Return the language model's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve(settings.path))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.llm.path: no tokenizer in '{settings.path}': {first_line(error)}") from error


def _encoders(recipe: Recipe) -> dict[str, FeatureEncoder]:
    """Return the recipe's encoders by medium."""
    return {
        medium: load_encoder(
            medium,
            resolve(settings.path),
            settings,
            tune_of(recipe, medium),
            router=recipe.model.legacy.vision_router if medium == IMAGE else "per-image",
        )
        for medium, settings in recipe.model.encoders.by_medium.items()
    }


def tune_of(recipe: Recipe, medium: str) -> Tune:
    """Return how the encoder of a medium learns."""
    component = next(name for name, known in COMPONENT_MEDIUM.items() if known == medium)
    tune: Tune = getattr(recipe.components, component).tune
    return tune


def make_connector(recipe: Recipe, llm: Any, encoder: FeatureEncoder) -> Connector:
    """Return a new connector from an encoder to the language model; models of shapes only give a scale of 1."""
    embeddings = llm.get_input_embeddings().weight
    # The size of a typical embedding: feature tokens then enter the model as loud as words do.
    scale = 1.0 if embeddings.is_meta else float(embeddings[:: max(1, len(embeddings) // 4096)].float().std())
    settings = recipe.model.connector
    connector = Connector(encoder.width, settings.hidden, int(text_config(llm).hidden_size), scale)
    connector.requires_grad_(recipe.components.connector.tune == "full")
    return connector
