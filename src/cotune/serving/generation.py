"""One request on its way through the engine: what is asked, what happens to it, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from cotune.data.template import Encoded
from cotune.serving.sampling import GREEDY, SamplingSettings

# Why an answer ended: by itself or a stop text; at its longest; at the end of its time.
Reason = Literal["stop", "length", "time"]


@dataclass(frozen=True)
class Prompt:
    """A conversation ready for the model: its tokens, and the encoder's input for each medium, by the medium's path."""

    encoded: Encoded
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """The modality set that answers."""
        return self.encoded.sample.modality


@dataclass(frozen=True)
class Piece:
    """More text of one of the answers."""

    choice: int
    text: str


@dataclass(frozen=True)
class Ended:
    """One of the answers is complete, after so many tokens, the one that ended it included."""

    choice: int
    reason: Reason
    tokens: int


@dataclass(frozen=True)
class Failed:
    """No answer will come: `busy` when it waited too long or the server is leaving, else for a fault of the server."""

    busy: bool


Event = Piece | Ended | Failed


@dataclass(eq=False)
class Generation:
    """What is asked of the engine.

    `listener` is told of every event, by the engine's own thread; it must not wait. `deadline` is a time of
    `time.monotonic`: who waits until then fails, who is being answered then ends. `cancelled` may be set by anybody.
    """

    prompt: Prompt
    listener: Callable[[Event], None]
    max_tokens: int
    deadline: float
    sampling: SamplingSettings = GREEDY
    stops: tuple[str, ...] = ()
    choices: int = 1
    cancelled: bool = False

    def cancel(self) -> None:
        """Ask for nothing more: nobody listens."""
        self.cancelled = True
