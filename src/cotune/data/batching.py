"""Batches of like length: samples are drawn a pool at a time, sorted by length and cut, so that little is padding.

The order is a pure function of the seed and the state; a run resumed from the state sees the same batches.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cotune.data.drawing import Drawer
from cotune.data.template import Encoded
from cotune.errors import DataError
from cotune.messages import Sample


class Batches:
    """An endless stream of batches of encoded samples.

    A drawn sample longer than `max_tokens` is replaced by another draw and counted in `too_long`: cutting it could
    cut a picture in half or leave no answer.

    Raises:
        DataError: from `next`, when nothing drawn is short enough.
    """

    def __init__(
        self,
        drawers: Sequence[Drawer],
        encode: Callable[[Sample], Encoded],
        *,
        batch_size: int,
        pool: int,
        seed: int,
        max_tokens: int,
    ) -> None:
        self.drawers, self.encode = list(drawers), encode
        self.batch_size, self.pool, self.seed, self.max_tokens = batch_size, pool, seed, max_tokens
        self.too_long = 0
        self._number = 0
        self._taken = 0
        self._before: dict[str, Any] = self._counters()
        self._batches: list[list[Encoded]] = []

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> list[Encoded]:
        if self._taken == len(self._batches):
            self._before = self._counters()
            self._batches = self._draw_pool()
            self._number += 1
            self._taken = 0
        self._taken += 1
        return self._batches[self._taken - 1]

    def counts(self) -> Counter[str]:
        """Return what was drawn but not used."""
        return Counter({"longer than max_tokens": self.too_long}) if self.too_long else Counter()

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on with the very next batch."""
        return {"before": self._before, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the pool under way is drawn again, its used batches skipped."""
        before = self._before = state["before"]
        self._number, self.too_long = before["number"], before["too_long"]
        for drawer, drawn in zip(self.drawers, before["drawn"], strict=True):
            drawer.drawn = drawn
        self._batches, self._taken = [], 0
        if state["taken"]:
            next(self)
            self._taken = state["taken"]

    def _counters(self) -> dict[str, Any]:
        return {"number": self._number, "drawn": [drawer.drawn for drawer in self.drawers], "too_long": self.too_long}

    def _draw_pool(self) -> list[list[Encoded]]:
        generator = random.Random(f"{self.seed}/pool/{self._number}")
        weights = [drawer.source.weight for drawer in self.drawers]
        pool = [self._draw(generator, weights) for _ in range(self.batch_size * self.pool)]
        pool.sort(key=len)
        batches = [pool[start : start + self.batch_size] for start in range(0, len(pool), self.batch_size)]
        generator.shuffle(batches)
        return batches

    def _draw(self, generator: random.Random, weights: Sequence[float]) -> Encoded:
        for _ in range(1000):
            encoded = self.encode(generator.choices(self.drawers, weights)[0].draw(generator))
            if len(encoded) <= self.max_tokens:
                return encoded
            self.too_long += 1
        problem = f"1000 in a row are longer than data.max_tokens ({self.max_tokens}); raise it"
        raise DataError("no sample drawn can be used", [problem])
