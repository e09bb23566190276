"""What the encoders made of recent pictures and sounds: a conversation shows the same one again with every turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cotune.data.collate import MediaLoaders
from cotune.model.encoders import FeatureEncoder
from cotune.model.multimodal_lm import MultimodalLM

Row = dict[str, Tensor]
_MOST_BYTES = 2**28


class FeatureShelf:
    """The frozen trunk's output of the pictures and sounds used last, by their path, up to `most_bytes`."""

    def __init__(self, model: MultimodalLM, most_bytes: int = _MOST_BYTES) -> None:
        self.model, self.most_bytes = model, most_bytes
        self.bytes = self.computed = 0
        self._rows: OrderedDict[tuple[str, Path], Row] = OrderedDict()

    def loaders(self, inputs: Mapping[str, Tensor]) -> MediaLoaders:
        """Return what gives the rows of a prompt's media; `inputs` are the encoder's inputs by path."""
        return {medium: partial(self._load, medium, inputs) for medium in self.model.encoders}

    def _load(self, medium: str, inputs: Mapping[str, Tensor], paths: Sequence[Path]) -> Row:
        rows = [self._row(medium, path, inputs) for path in paths]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, medium: str, path: Path, inputs: Mapping[str, Tensor]) -> Row:
        key = (medium, path)
        if key not in self._rows:
            self._keep(key, self._compute(self.model.encoder(medium), inputs[str(path)]))
        self._rows.move_to_end(key)
        row = self._rows[key]
        while self.bytes > self.most_bytes and len(self._rows) > 1:
            self.bytes -= _size(self._rows.popitem(last=False)[1])
        return row

    def _keep(self, key: tuple[str, Path], row: Row) -> None:
        self._rows[key] = row
        self.bytes += _size(row)

    @torch.no_grad()
    def _compute(self, encoder: FeatureEncoder, made: Tensor) -> Row:
        self.computed += 1
        trunk = encoder.trunk(made.unsqueeze(0).to(self.model.device))
        return {name: rows[0].cpu() for name, rows in trunk.items()}


def _size(row: Row) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in row.values())
