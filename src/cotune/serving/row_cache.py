"""Keys and values of answers that come and go: one row for each, all of them ending in the same column.

Rows of different lengths are aligned on the right. Every row then writes its next token into the same column, distances
inside a row are distances between columns (sliding windows and linear biases stay right), and a finished row leaves by
giving its place to the last one. Nothing is moved from token to token: memory is taken some columns ahead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

# Columns taken ahead: all rows are copied once in so many tokens.
AHEAD = 128


class _Window:
    """Which rows and columns of the buffers are in use; the same for all layers."""

    def __init__(self) -> None:
        self.rows = self.start = self.end = 0

    @property
    def width(self) -> int:
        """The number of columns in use."""
        return self.end - self.start


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [rows, heads, columns, head width], of which a window is in use."""

    def __init__(self, window: _Window, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.window, self.keys, self.values = window, keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: a layer is made when its first row joins."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the next column of every row and return all columns in use, that one included."""
        window, rows = self.window, slice(0, self.window.rows)
        self.keys[rows, :, window.end] = key_states[:, :, 0]
        self.values[rows, :, window.end] = value_states[:, :, 0]
        columns = slice(window.start, window.end + 1)
        return self.keys[rows, :, columns], self.values[rows, :, columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns the mask covers, and the first one's number."""
        return self.window.width + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns in use."""
        return self.window.width

    def get_max_length(self) -> int:
        """Return that there is no longest."""
        return -1


class RowCache(Cache):  # type: ignore[misc]
    """The cache of one running batch. `lengths` has the number of positions of each row."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layers: list[_Layer] = []
        self.window = _Window()
        self.lengths: list[int] = []

    def join(self, prompt: Cache, copies: int) -> None:
        """Add rows at the end, each with the positions of a computed prompt: a cache of one row."""
        length = int(prompt.get_seq_length())
        rows = self.window.rows + copies
        self._make_room(prompt, rows, length)
        window, added = self.window, slice(self.window.rows, rows)
        columns = slice(window.end - length, window.end)
        for layer, read in zip(self.layers, prompt.layers, strict=True):
            layer.keys[added, :, columns] = read.keys
            layer.values[added, :, columns] = read.values
        window.rows = rows
        self.lengths += [length] * copies
        self._narrow()

    def leave(self, row: int) -> None:
        """Take a row out; the last one comes to stand in its place."""
        window, last = self.window, self.window.rows - 1
        if row != last:
            columns = slice(window.start, window.end)
            for layer in self.layers:
                layer.keys[row, :, columns] = layer.keys[last, :, columns]
                layer.values[row, :, columns] = layer.values[last, :, columns]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        window.rows = last
        self._narrow()

    def mask(self, device: torch.device) -> Tensor | None:
        """Return which columns are a row's own in the next call, [rows, columns]; None where all are everybody's."""
        width = self.window.width + 1
        if min(self.lengths) == self.window.width:
            return None
        own = torch.tensor(self.lengths, device=device).unsqueeze(1) + 1  # [rows, 1]
        return (torch.arange(width, device=device) >= width - own).long()

    def positions(self, device: torch.device) -> Tensor:
        """Return the position of each row's next token, [rows, 1]."""
        return torch.tensor(self.lengths, device=device).unsqueeze(1)

    def ready(self) -> None:
        """Make room for one more column; before every call of the model."""
        if self.window.end == self.layers[0].keys.shape[2]:
            self._arrange(self.layers[0].keys.shape[0], self.window.width)

    def advance(self) -> None:
        """Count the column that a call of the model has written."""
        self.window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _make_room(self, prompt: Cache, rows: int, length: int) -> None:
        if not self.layers:
            empty = [(read.keys[:0, :, :0], read.values[:0, :, :0]) for read in prompt.layers]
            self.layers = [_Layer(self.window, keys, values) for keys, values in empty]
        have = self.layers[0].keys.shape[0]
        if rows > have or length > self.window.end:
            self._arrange(max(rows, have), max(length, self.window.width))

    def _arrange(self, rows: int, width: int) -> None:
        """Move all rows to new buffers in which `width` columns end where they do, with room behind them."""
        window = self.window
        used, columns = slice(0, window.rows), slice(window.start, window.end)
        target = slice(width - window.width, width)
        for layer in self.layers:
            layer.keys = _moved(layer.keys, rows, width, used, columns, target)
            layer.values = _moved(layer.values, rows, width, used, columns, target)
        window.start, window.end = width - window.width, width

    def _narrow(self) -> None:
        """Leave out the columns that only a longer row had."""
        self.window.start = self.window.end - max(self.lengths, default=0)


def _moved(old: Tensor, rows: int, width: int, used: slice, columns: slice, target: slice) -> Tensor:
    # Zeros, not empty memory: what a mask leaves out is multiplied by zero, and there may be no NaN in it.
    new = old.new_zeros(rows, old.shape[1], width + AHEAD, old.shape[3])
    new[used, :, target] = old[used, :, columns]
    return new
