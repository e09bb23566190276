"""From encoded samples to the tensors of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from cotune.data.template import IGNORED, Encoded
from cotune.messages import MEDIA_OF_PART, Sample

# Gives the tensors of pictures or sounds in order, one row each; the model's encoder knows what they hold.
LoadMedia = Callable[[Sequence[Path]], dict[str, Tensor]]
# What loads each kind of medium; empty where there is nothing to load.
MediaLoaders = Mapping[str, LoadMedia]


@dataclass
class Features:
    """The media of one kind in a batch, and the places of their feature tokens.

    `rows` holds the encoder's input, one row per picture or sound in the order their features stand in the batch;
    `mask` is [batch, tokens], true where a feature token of this kind belongs.
    """

    rows: dict[str, Tensor]
    mask: Tensor

    def to(self, device: torch.device) -> Features:
        """Return the same on a device."""
        return Features({name: moved(rows, device) for name, rows in self.rows.items()}, moved(self.mask, device))


# Which sample of its row padding belongs to: none.
PADDING = -1


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU fetches it from pinned memory by itself, while the next one is made ready."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass
class Packing:
    """Which samples share the rows of a batch.

    `segments` [batch, tokens] says which sample of its row each token belongs to (0, 1 ..., padding -1), `modalities`
    names the modality of each sample, row by row.
    """

    segments: Tensor
    modalities: list[list[str]]


@dataclass
class Batch:
    """One batch, padded on the right (causal attention never looks there, so no mask is needed).

    `tokens` and `targets` are [batch, tokens]; `features` has an entry for every kind of medium the batch holds;
    `lengths` are the rows' true lengths. `packing` is there when rows hold several samples; `modalities` then names
    all media of a row.
    """

    tokens: Tensor
    targets: Tensor
    lengths: list[int]
    modalities: list[str]
    features: dict[str, Features]
    packing: Packing | None = None

    def samples_of_loss(self) -> Tensor:
        """Return, for every token that carries loss [loss tokens], its sample's number, counted row by row."""
        rows, columns = (self.targets != IGNORED).nonzero(as_tuple=True)
        if self.packing is None:
            return rows
        in_front = accumulate((len(row) for row in self.packing.modalities), initial=0)
        first = torch.tensor(list(in_front)[:-1], device=rows.device)  # [batch]
        return first[rows] + self.packing.segments[rows, columns]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        features = {medium: found.to(device) for medium, found in self.features.items()}
        packing = self.packing and Packing(moved(self.packing.segments, device), self.packing.modalities)
        tokens, targets = moved(self.tokens, device), moved(self.targets, device)
        return Batch(tokens, targets, self.lengths, self.modalities, features, packing)


def collate(samples: Sequence[Encoded], filler: int, loaders: MediaLoaders, *, pad_left: bool = False) -> Batch:
    """Return the batch of encoded samples; `pad_left` is for generation, where answers follow the last column.

    Raises:
        ValueError: when a sample holds a medium that nothing loads.
    """
    longest = max(len(encoded) for encoded in samples)
    starts = [longest - len(encoded) if pad_left else 0 for encoded in samples]
    tokens = torch.full((len(samples), longest), filler)
    targets = torch.full((len(samples), longest), IGNORED)
    for row, (start, encoded) in enumerate(zip(starts, samples, strict=True)):
        tokens[row, start : start + len(encoded)] = torch.tensor(encoded.tokens)
        targets[row, start : start + len(encoded)] = torch.tensor(encoded.targets)
    kinds = dict.fromkeys(MEDIA_OF_PART[type(part)] for encoded in samples for part in encoded.sample.media)
    features = {kind: _features(kind, samples, starts, longest, loaders) for kind in kinds}
    modalities = [encoded.sample.modality for encoded in samples]
    return Batch(tokens, targets, [len(encoded) for encoded in samples], modalities, features)


def collate_rows(rows: Sequence[Sequence[Encoded]], filler: int, loaders: MediaLoaders) -> Batch:
    """Return the batch of rows that hold one or several samples each; where all hold one, it is not packed.

    Raises:
        ValueError: when a sample holds a medium that nothing loads.
    """
    batch = collate([_behind_each_other(row) for row in rows], filler, loaders)
    if all(len(row) == 1 for row in rows):
        return batch
    segments = torch.full_like(batch.tokens, PADDING)
    for number, row in enumerate(rows):
        lengths = torch.tensor([len(encoded) for encoded in row])
        segments[number, : int(lengths.sum())] = torch.arange(len(row)).repeat_interleave(lengths)
    batch.packing = Packing(segments, [[encoded.sample.modality for encoded in row] for row in rows])
    return batch


def _behind_each_other(row: Sequence[Encoded]) -> Encoded:
    """Return the samples of a row as one; no target changes, since each sample predicts its own tokens alone."""
    if len(row) == 1:
        return row[0]
    starts = accumulate((len(encoded) for encoded in row), initial=0)
    spans = [
        (start + first, start + end)
        for start, encoded in zip(starts, row, strict=False)
        for first, end in encoded.feature_spans
    ]
    messages = tuple(message for encoded in row for message in encoded.sample.messages)
    tokens = [token for encoded in row for token in encoded.tokens]
    targets = [target for encoded in row for target in encoded.targets]
    return Encoded(tokens, targets, spans, Sample("+".join(encoded.sample.id for encoded in row), messages))


def _features(
    kind: str, samples: Sequence[Encoded], starts: Sequence[int], longest: int, loaders: MediaLoaders
) -> Features:
    """Return one kind of media of a batch, loaded, and where their features belong."""
    if kind not in loaders:
        raise ValueError(f"the batch holds {kind}, but nothing loads it: give a loader for '{kind}'")
    mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, (start, encoded) in enumerate(zip(starts, samples, strict=True)):
        for first, end in encoded.spans_of(kind):
            mask[row, start + first : start + end] = True
    parts = (part for encoded in samples for part in encoded.sample.media)
    return Features(loaders[kind]([part.path for part in parts if MEDIA_OF_PART[type(part)] == kind]), mask)
