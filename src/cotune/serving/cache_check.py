"""Whether answers of a model can share a batch: its cache must be keys and values, nothing that runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from cotune.adapters.sites import decoder
from cotune.errors import ServeError, first_line
from cotune.messages import TEXT
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.row_cache import RowCache

_LENGTHS = (3, 6)
# Of the states' size. Rounding in bfloat16 stays below a tenth of it; a cache that is not understood is far beyond.
_TOLERANCE = 0.2


@torch.no_grad()
def check_rows_can_share(model: MultimodalLM) -> None:
    """Compute a token of two rows of different lengths together, and compare with each row alone.

    Raises:
        ServeError: when the model cannot do that, or computes something else.
    """
    name = type(model.llm).__name__
    try:
        difference = _difference(model)
    except Exception as error:  # what a model's code does with a cache it does not expect is its own affair
        said = first_line(error)
    else:
        if difference <= _TOLERANCE:
            return
        said = f"a relative difference of {difference:.2g}"
    raise ServeError(
        f"{name}: its answers cannot be computed together, so it cannot be served ({said}); "
        "`cotune chat` answers one at a time"
    )


def _difference(model: MultimodalLM) -> float:
    """Return the largest difference of the last states between rows together and rows alone, relative to their size."""
    from transformers import DynamicCache

    body, embed = decoder(model.llm), model.llm.get_input_embeddings()
    rows = [torch.arange(length, device=model.device).unsqueeze(0) + 3 for length in _LENGTHS]  # [1, tokens]
    cache, alone = RowCache(), []
    model.route([TEXT])
    for tokens in rows:
        prompt = DynamicCache()
        body(inputs_embeds=embed(tokens[:, :-1]), past_key_values=prompt, use_cache=True)
        cache.join(prompt, 1)
        alone.append(body(inputs_embeds=embed(tokens), use_cache=False).last_hidden_state[:, -1])
    cache.ready()
    together: Tensor = body(
        inputs_embeds=embed(torch.cat([tokens[:, -1:] for tokens in rows])),
        attention_mask=cache.mask(model.device),
        position_ids=cache.positions(model.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]  # [rows, width]
    wanted = torch.cat(alone).float()
    return float((together.float() - wanted).norm() / wanted.norm())
