"""An answer as text while its tokens come: what can be shown already, and whether a stop text ends it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

# A character of several tokens shows as a replacement mark until it is complete.
_INCOMPLETE = "\ufffd"


class GrowingText:
    """The text of one answer, given token by token and handed out piece by piece.

    A token of `stop_ids` ends it, and so does any of the texts `stops`; neither is part of it. What may yet turn out
    to be the beginning of a stop text is held back. The pieces joined are the text of all tokens.
    """

    def __init__(self, tokenizer: Any, stop_ids: Collection[int], stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop_ids, self.stops = tokenizer, stop_ids, tuple(stops)
        self.tokens: list[int] = []
        self.stopped = False
        self._shown = 0

    def add(self, token: int) -> str:
        """Return what can be shown once a token has come; empty for one that ends the answer."""
        if self.stopped:
            return ""
        if token in self.stop_ids:
            self.stopped = True
            return self._show(self._text())
        self.tokens.append(token)
        text = self._text()
        end = min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=None)
        if end is not None:
            self.stopped = True
            return self._show(text[:end])
        return "" if text.endswith(_INCOMPLETE) else self._show(text[: len(text) - self._held_back(text)])

    def finish(self) -> str:
        """Return what was held back, when nothing more comes."""
        return "" if self.stopped else self._show(self._text())

    def _text(self) -> str:
        text: str = self.tokenizer.decode(self.tokens, skip_special_tokens=True)
        return text

    def _show(self, text: str) -> str:
        piece = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return piece

    def _held_back(self, text: str) -> int:
        """Return how many characters at the end are the beginning of a stop text."""
        longest = max(map(len, self.stops), default=0)
        sizes = range(min(longest - 1, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self.stops)), 0)
