"""The model of a recipe on the meta device: every module and every shape, no weights, nothing downloaded.

The shapes come from the recipe's `shape`, else from a configuration that already lies on this machine.
"""

from __future__ import annotations

from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from cotune.data.template import Template
from cotune.errors import ModelError, first_line
from cotune.model.encoders import FeatureEncoder, skeleton_encoder
from cotune.model.lean_layers import keep_less
from cotune.model.loading import make_connector, tune_of
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.tuning import tune_language_model
from cotune.quickstart import PREFIX, asset_folder, find_asset, is_finished, resolve
from cotune.recipe import Encoder, LanguageModel, Recipe, Tune

# How alike an unknown key of a shape must be to a known one to be taken for a typing error.
_TYPING_ERROR = 0.85


def shapes_of(recipe: Recipe) -> MultimodalLM:
    """Return the recipe's model without numbers: real classes on the meta device, adapters attached, no tokenizer.

    Raises:
        ModelError: when a model has neither a `shape` nor a configuration on this machine, or the shape is wrong.
    """
    llm = llm_shapes(recipe.model.llm)
    encoders = {
        medium: _encoder_shapes(medium, _with_shape(medium, settings), tune_of(recipe, medium))
        for medium, settings in recipe.model.encoders.by_medium.items()
    }
    connectors = {medium: make_connector(recipe, llm, encoder) for medium, encoder in encoders.items()}
    adapters = tune_language_model(recipe, llm)
    template = Template(_NO_TOKENIZER, {medium: encoder.tokens for medium, encoder in encoders.items()})
    return MultimodalLM(llm, template, encoders, connectors, adapters).to("meta")


def media_tokens_of(recipe: Recipe) -> dict[str, int]:
    """Return how many feature tokens a picture or sound takes under a recipe, by medium; no weights are read.

    Raises:
        ModelError: see `shapes_of`.
    """
    return {
        medium: _encoder_shapes(medium, _with_shape(medium, settings), "frozen").tokens
        for medium, settings in recipe.model.encoders.by_medium.items()
    }


# A model of shapes has nothing to tokenise; the template only carries how many tokens a picture takes.
_NO_TOKENIZER = SimpleNamespace(chat_template=None, eos_token_id=None, pad_token_id=0)


def llm_shapes(settings: LanguageModel) -> Any:
    """Return the frozen language model on the meta device, in the recipe's precision and in evaluation mode.

    Raises:
        ModelError: see `shapes_of`.
    """
    from transformers import AutoModelForCausalLM

    config = _config(settings)
    try:
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, settings.dtype))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"model.llm: no causal language model has this shape: {first_line(error)}") from None
    keep_less(llm)
    return llm.requires_grad_(False).eval()


def _config(settings: LanguageModel) -> Any:
    if settings.shape is not None:
        return _config_from_shape(dict(settings.shape))
    return _local_config("model.llm", settings.path)


def _config_from_shape(shape: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    kind = shape.pop("model_type", None)
    if kind is None:
        raise ModelError("model.llm.shape: model_type is missing; write it as in the model's config.json")
    try:
        known = AutoConfig.for_model(kind).to_dict()
        config = AutoConfig.for_model(kind, **shape)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"model.llm.shape: {_reason(error)}") from error
    # A configuration takes any key in silence; a misspelt one would leave a default of another size in its place.
    for key in shape.keys() - known.keys():
        if close := get_close_matches(key, known, n=1, cutoff=_TYPING_ERROR):
            raise ModelError(f"model.llm.shape: '{kind}' has no key '{key}'; did you mean '{close[0]}'?")
    return config


def _encoder_shapes(medium: str, settings: Encoder, tune: Tune) -> FeatureEncoder:
    try:
        return skeleton_encoder(medium, settings, tune)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"model.encoders.{medium}: no encoder has this shape: {_reason(error)}") from error


def _with_shape(medium: str, settings: Encoder) -> Encoder:
    """Return an encoder's settings with its shape; other kinds than those of transformers know theirs themselves."""
    if settings.shape is not None or settings.kind != "huggingface":
        return settings
    config = _local_config(f"model.encoders.{medium}", settings.path)
    return settings.model_copy(update={"shape": config.to_dict()})


def _local_config(where: str, path: str) -> Any:
    """Return the configuration of a model that lies on this machine, in a folder or in the hub's cache."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(_local_path(where, path), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(_no_configuration(where, path)) from error


def _reason(error: Exception) -> str:
    """Return what is wrong with a configuration; transformers' own check puts it in the cause."""
    return first_line(error.__cause__ if isinstance(error.__cause__, ValueError) else error)


def _local_path(where: str, path: str) -> str:
    """Return the folder a recipe's path means, without fetching anything.

    Raises:
        ModelError: for a quickstart asset that was not fetched yet.
    """
    if not path.startswith(PREFIX):
        return resolve(path)
    name, _, inside = path.removeprefix(PREFIX).partition("/")
    asset = find_asset(name)
    if not is_finished(asset):
        raise ModelError(_no_configuration(where, path))
    return str(asset_folder(asset) / inside)


def _no_configuration(where: str, path: str) -> str:
    return (
        f"{where}: no configuration of '{path}' lies on this machine, and nothing is downloaded here; put what its "
        f"config.json holds under {where}.shape (model_type, hidden_size, num_hidden_layers ...), or fetch the model"
    )
