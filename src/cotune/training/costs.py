"""What tuning takes while it runs: time and tokens, added up step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cotune.data.template import Encoded
from cotune.training.peak_memory import peak_memory_bytes


@dataclass
class Costs:
    """What the tuning took, all processes together: wall time, tokens seen (padding not counted), steps left out.

    `overflows` counts the steps whose gradients ran over under fp16.
    """

    seconds: float = 0.0
    tokens: int = 0
    loss_tokens: int = 0
    padding: int = 0
    overflows: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of tuning."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def add(self, encoded: Sequence[Encoded], padding: int, seconds: float) -> dict[str, Any]:
        """Add a step's costs and return what the trace keeps of them."""
        tokens = sum(len(item) for item in encoded)
        loss_tokens = sum(item.answer_tokens for item in encoded)
        self.seconds += seconds
        self.tokens += tokens
        self.loss_tokens += loss_tokens
        self.padding += padding
        took = {"step_seconds": round(seconds, 4), "peak_memory_bytes": peak_memory_bytes()}
        return {"tokens": tokens, "loss_tokens": loss_tokens, "padding": padding} | took

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from sums that `state_dict` gave."""
        vars(self).update(state)
