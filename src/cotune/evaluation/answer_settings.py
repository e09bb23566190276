"""What decides the answers of a run besides the questions: they are gone on with only where it is all the same."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from cotune.recipe import Recipe
from cotune.run_folder import RunFolder

_ADAPTER_FILES = ("adapter.safetensors", "adapter.json")


def adapter_digest(run: RunFolder) -> str:
    """Return a digest of the files of a run's adapter."""
    digest = sha256()
    for name in _ADAPTER_FILES:
        file = run.adapter / name
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()[:16]


def answer_settings(recipe: Recipe, adapter: str, *, options: bool = False) -> dict[str, Any]:
    """Return what decides the answers of a run besides the questions; `adapter` is the digest of what was tuned.

    The batch size is not among it: it decides nothing but rounding.
    """
    llm = recipe.model.llm
    return {
        "task": recipe.evaluation.task,
        "adapter": adapter,
        "language_model": llm.path,
        "precision": llm.quantize or llm.dtype,
        "chat_template": llm.chat_template,
        "max_new_tokens": recipe.evaluation.max_new_tokens,
        "blank_media": recipe.data.blank_media,
        "legacy": recipe.model.legacy.model_dump(),
        "options": options,
        "limit": recipe.evaluation.limit,
    }
