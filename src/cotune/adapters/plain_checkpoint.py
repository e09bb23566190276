"""Write a folded model as a checkpoint that any `from_pretrained` loads with the same logits.

A fold gives biases to layers that had none. A checkpoint keeps them only when its configuration declares them; else
they are dropped at loading, with no error. Which option of which architecture declares which bias is not listed here
but tried: the architecture is built without memory, and its tensors are compared with the model's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotune.adapters.attach import text_config
from cotune.adapters.comparison import TOLERANCE, Inputs, largest_difference, random_tokens, run
from cotune.errors import FoldError, describe_write_error

Shapes = Mapping[str, tuple[int, ...]]

# Architectures that compute the same as another, but declare biases: Qwen2 always has them on query, key and value,
# and knows Mistral's sliding window; Llama has options for all its layers, and no window.
_SAME_COMPUTATION = {"mistral": ("qwen2", "llama"), "qwen2": ("llama",)}
_NOT_CARRIED = ("model_type", "architectures", "layer_types", "use_sliding_window", "max_window_layers")


def declare_biases(model: Any, new: Iterable[str]) -> None:
    """Declare new biases (names of tensors) in the model's configuration where it has options for them, in place.

    An option may stand for more layers than were changed (in Llama for the attention's output layer too): those get
    zeros. A model whose architecture has no option stays as it is; `save_plain` stores it as another one, or refuses.
    """
    if not set(new):
        return
    for options in _option_sets(model.config):
        extra = _extra_biases(model, type(model), _with_options(model.config, options))
        if extra is not None:
            for option in options:
                setattr(text_config(model), option, True)
            _add_zeros(model, extra)
            return


@torch.no_grad()
def save_plain(model: Any, folder: Path, tokenizer: Any = None, inputs: Inputs | None = None) -> float:
    """Write a folded model (and its tokenizer) to a folder and return the largest logit difference after reloading.

    The folder loads with `AutoModelForCausalLM.from_pretrained`. `inputs` are those of the comparing model calls,
    random tokens when left out.

    Raises:
        FoldError: when no known architecture can declare the biases the fold has added, when the folder cannot be
            written, or when the reloaded model differs.
    """
    from transformers import AutoModelForCausalLM

    inputs = inputs or random_tokens(model)
    stored = _storable(model)
    try:
        stored.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except OSError as error:
        raise FoldError(f"{folder} cannot be written: {describe_write_error(error)}") from error
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(model.device).eval()
    reloaded.set_attn_implementation(model.config._attn_implementation)  # another kernel rounds otherwise
    expected = run(model, inputs)
    difference = largest_difference(run(reloaded, inputs), expected)
    # Equal tensors leave only the order of additions, in the precision of the model.
    tolerance = max(TOLERANCE, 8 * torch.finfo(expected.dtype).eps) * float(expected.abs().max())
    if difference > tolerance or not _equal_tensors(reloaded, stored):
        raise FoldError(
            f"{folder}: the checkpoint, loaded again, is not the folded model (largest logit difference "
            f"{difference:.1e}); do not use it. The folded model in memory is right"
        )
    return difference


def _equal_tensors(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two models hold the same tensors: a lost bias may be smaller than half precision shows."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(tensor.equal(second[name]) for name, tensor in first.items())


def _storable(model: Any) -> Any:
    """Return the model itself, or its tensors under an equal architecture that declares its biases."""
    if _extra_biases(model, type(model), model.config) == {}:
        return model
    kind = model.config.model_type
    for config in (_converted(model.config, target) for target in _SAME_COMPUTATION.get(kind, ())):
        for options in _option_sets(config) if config is not None else ():
            chosen = _with_options(config, options)
            extra = _extra_biases(model, _class_of(chosen), chosen)
            if extra is not None:
                return _rebuilt(model, chosen, extra)
    raise FoldError(
        f"{type(model).__name__}: the fold adds biases to layers for which '{kind}' configurations have no option, so "
        "a checkpoint would lose them at loading. Adapters without biases (model.llm.adapters.bias=false) fold into "
        "any architecture; the folded model in memory is exact"
    )


def _converted(config: Any, target: str) -> Any:
    """Return the configuration of an equal architecture, or None where it would not be equal."""
    from transformers import CONFIG_MAPPING

    settings = {k: v for k, v in config.to_dict().items() if k not in _NOT_CARRIED}
    window = settings.pop("sliding_window", None)
    if target == "qwen2":
        # Every layer from number 0 on has the window, as in Mistral.
        settings |= {"use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": 0}
    elif window is not None:
        return None
    return CONFIG_MAPPING[target](**settings)


def _class_of(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _rebuilt(model: Any, config: Any, extra: Shapes) -> Any:
    """Return the model's own tensors in another architecture; for saving only, its buffers are empty."""
    rebuilt = _skeleton(_class_of(config), config)
    zeros = {name: torch.zeros(shape, dtype=model.dtype, device=model.device) for name, shape in extra.items()}
    rebuilt.load_state_dict({**model.state_dict(), **zeros}, assign=True)
    rebuilt.generation_config = copy.deepcopy(model.generation_config)
    return rebuilt


def _option_sets(config: Any) -> Iterator[Sequence[str]]:
    """Yield every set of bias options that a configuration has and leaves off, the fewest first."""
    names = [name for name, value in config.get_text_config().to_dict().items() if "bias" in name and value is False]
    for count in range(len(names) + 1):
        yield from combinations(names, count)


def _with_options(config: Any, options: Sequence[str]) -> Any:
    changed = copy.deepcopy(config)
    for option in options:
        setattr(changed.get_text_config(), option, True)
    return changed


def _extra_biases(model: Any, architecture: Any, config: Any) -> Shapes | None:
    """Return the biases an architecture has beyond a model's tensors; None unless it fits the model but for those."""
    have = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in _skeleton(architecture, config).state_dict().items()}
    extra = {name: shape for name, shape in wanted.items() if name not in have}
    fits = all(wanted.get(name) == shape for name, shape in have.items())
    return extra if fits and all(name.endswith(".bias") for name in extra) else None


def _skeleton(architecture: Any, config: Any) -> Any:
    with torch.device("meta"):
        return architecture(copy.deepcopy(config))


def _add_zeros(model: Any, biases: Shapes) -> None:
    for name, shape in biases.items():
        layer = model.get_submodule(name.removesuffix(".bias"))
        layer.bias = nn.Parameter(layer.weight.new_zeros(shape), requires_grad=False)
