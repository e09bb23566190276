"""The loss on plain held-out text: what tuning did to the model as a language model, path by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotune.errors import DataError
from cotune.messages import TEXT
from cotune.model.multimodal_lm import MultimodalLM

WINDOW = 256
# Tokens whose logits are in float64 at once: all of a window would be a quarter of a gigabyte with a large vocabulary.
_AT_ONCE = 32


@dataclass(frozen=True)
class TextLoss:
    """Mean negative log-likelihood in nats per token of a text: of the base model, and of each path of the tuned one.

    `paths` has an entry for every modality set; a model without routed adapters has one path only, `text`.
    """

    tokens: int
    base: float
    paths: dict[str, float]

    def as_result(self) -> dict[str, Any]:
        """Return what `result.json` holds."""
        return {"tokens": self.tokens, "before": self.base, "after": dict(self.paths)}


def read_text(path: str | None) -> str:
    """Return the held-out text: a user's file, or the one that comes with cotune and was written for it.

    Raises:
        DataError: when the file cannot be read as text.
    """
    file = Path(path) if path else Path(__file__).with_name("held_out.txt")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the held-out text cannot be read", [f"evaluation.text_file: {file}: {error}"]) from None


def text_loss(base: Any, model: MultimodalLM, text: str) -> TextLoss:
    """Return the loss of an untouched base model and of every path of the tuned one on a text.

    The text is cut into windows of 256 tokens that know nothing of each other; the first token of each is not scored.

    Raises:
        DataError: when the text has fewer than two tokens.
    """
    tokens = model.template.tokenizer(text, add_special_tokens=False).input_ids
    windows = [tokens[start : start + WINDOW] for start in range(0, len(tokens), WINDOW)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise DataError("the held-out text is too short", ["evaluation.text_file: at least two tokens are needed"])
    was_training = model.training
    model.eval()
    before = _mean_loss(base, windows, model.device)
    paths = {}
    for name in model.adapters.modalities.names if model.adapters is not None else (TEXT,):
        model.route([name])
        paths[name] = _mean_loss(model.llm, windows, model.device)
    model.train(was_training)
    return TextLoss(sum(len(window) - 1 for window in windows), before, paths)


@torch.no_grad()
def _mean_loss(llm: Any, windows: Sequence[list[int]], device: torch.device) -> float:
    total, count = 0.0, 0
    for window in windows:
        ids = torch.tensor([window], device=device)
        logits = llm(input_ids=ids[:, :-1], use_cache=False).logits[0]  # [tokens, vocabulary]
        for some, targets in zip(torch.split(logits, _AT_ONCE), torch.split(ids[0, 1:], _AT_ONCE), strict=True):
            total += float(nn.functional.cross_entropy(some.double(), targets, reduction="sum"))
        count += len(window) - 1
    return total / count
