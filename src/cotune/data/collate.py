"""From encoded samples to the tensors of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cotune.data.template import IGNORED, Encoded

# Gives the tensors of pictures in order, one row per picture; the model's encoder knows what they hold.
LoadMedia = Callable[[Sequence[Path]], dict[str, Tensor]]


@dataclass
class Batch:
    """One batch, padded on the right (causal attention never looks there, so no mask is needed).

    `tokens`, `targets`, `feature_mask` are [batch, tokens]; `media` holds one row per picture in the order the
    features stand in the batch; `lengths` are the rows' true lengths.
    """

    tokens: Tensor
    targets: Tensor
    feature_mask: Tensor
    lengths: list[int]
    modalities: list[str]
    media: dict[str, Tensor] | None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        media = None if self.media is None else {name: rows.to(device) for name, rows in self.media.items()}
        return Batch(
            self.tokens.to(device),
            self.targets.to(device),
            self.feature_mask.to(device),
            self.lengths,
            self.modalities,
            media,
        )


def collate(samples: Sequence[Encoded], filler: int, load_media: LoadMedia | None, *, pad_left: bool = False) -> Batch:
    """Return the batch of encoded samples; `pad_left` is for generation, where answers follow the last column."""
    longest = max(len(encoded) for encoded in samples)
    tokens = torch.full((len(samples), longest), filler)
    targets = torch.full((len(samples), longest), IGNORED)
    feature_mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, encoded in enumerate(samples):
        place = slice(longest - len(encoded), longest) if pad_left else slice(0, len(encoded))
        tokens[row, place] = torch.tensor(encoded.tokens)
        targets[row, place] = torch.tensor(encoded.targets)
        feature_mask[row, place] = torch.tensor(encoded.feature_mask)
    if load_media is None and bool(feature_mask.any()):
        raise ValueError("features have a place in the batch, but nothing loads the media: give load_media")
    paths = [medium.path for encoded in samples for medium in encoded.sample.media]
    media = load_media(paths) if paths and load_media is not None else None
    modalities = [encoded.sample.modality for encoded in samples]
    return Batch(tokens, targets, feature_mask, [len(encoded) for encoded in samples], modalities, media)
