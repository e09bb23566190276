"""Everything between a recipe and the first step: sources read, media checked, features computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from cotune.data.batching import Batches
from cotune.data.collate import LoadMedia
from cotune.data.drawing import Drawer
from cotune.data.media import check_media, load_image
from cotune.data.sources import SourceSamples, read_source, split_by_media
from cotune.errors import DataError
from cotune.messages import MEDIA_OF_PART, TEXT, Audio, Image, Message, Sample, question_answer
from cotune.model.feature_cache import FeatureCache
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import progress
from cotune.quickstart import cache_folder, resolve
from cotune.recipe import Data, Recipe, Source

_STATISTICS_CHUNK = 512


@dataclass
class Samples:
    """The samples of a recipe: one list per training source, those held out for choosing, and the test."""

    train: list[list[Sample]]
    validation: list[Sample]
    test: list[Sample]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def all_train(self) -> list[Sample]:
        """The training samples of all sources."""
        return [sample for source in self.train for sample in source]

    def media_paths(self) -> list[Path]:
        """Every picture used anywhere, once, in order."""
        samples = [*self.all_train, *self.validation, *self.test]
        return list(dict.fromkeys(medium.path for sample in samples for medium in sample.media))


def read_samples(data: Data, seed: int, *, test_limit: int | None = None) -> Samples:
    """Return the samples of a recipe's sources, split and checked; nothing is skipped without being counted.

    Raises:
        DataError: naming every faulty line, sample and picture.
    """
    result = Samples([], [], [])
    for source in data.train:
        found = _read(source, result.counts)
        train, held_out = split_by_media(found.samples, data.validation_share, seed)
        result.train.append(train)
        result.validation += held_out
    for source in data.test:
        result.test += _read(source, result.counts).samples
    result.test = result.test[:test_limit]
    _finish(result, data)
    empty = [source.path for source, samples in zip(data.train, result.train, strict=True) if not samples]
    if empty:
        raise DataError(
            "no training samples are left", [f"{path}: lower data.validation_share or mend its media" for path in empty]
        )
    return result


def leave_out_frozen_text(samples: Samples, recipe: Recipe) -> None:
    """Take text-only samples out of training, counted, when the text path is the frozen base model.

    Nothing on their way learns; a batch of them alone would have no gradient at all.

    Raises:
        DataError: when a training source holds nothing else.
    """
    llm = recipe.model.llm
    frozen_text = recipe.components.llm.tune == "adapters" and llm.routing.mode == "hard" and llm.routing.text == "base"
    if not frozen_text and recipe.components.llm.tune != "frozen":
        return
    before = len(samples.all_train)
    samples.train = [[sample for sample in source if sample.modality != TEXT] for source in samples.train]
    if len(samples.all_train) == before:
        return
    samples.counts["text-only, left out of training"] = before - len(samples.all_train)
    samples.counts["train"] = len(samples.all_train)
    empty = [source.path for source, kept in zip(recipe.data.train, samples.train, strict=True) if not kept]
    if empty:
        advice = "it is text only, and the text path is frozen; set model.llm.routing.text=trained to learn from it"
        raise DataError("sources that nothing can be learned from", [f"{path}: {advice}" for path in empty])


def read_test(data: Data, *, limit: int | None = None) -> Samples:
    """Return the test samples alone, as `read_samples` would.

    Raises:
        DataError: when the recipe names no test source, or naming every faulty line, sample and picture.
    """
    if not data.test:
        raise DataError("nothing to score", ["data.test: the recipe names no test source"])
    result = Samples([], [], [])
    for source in data.test:
        result.test += _read(source, result.counts).samples
    result.test = result.test[:limit]
    _finish(result, data)
    return result


def _finish(samples: Samples, data: Data) -> None:
    """Apply the recipe's policies on media, and count what is left."""
    _apply_media_policy(samples, data)
    if data.blank_media:
        samples.train = [[without_media(sample) for sample in source] for source in samples.train]
        samples.validation = [without_media(sample) for sample in samples.validation]
        samples.test = [without_media(sample) for sample in samples.test]
    kinds = {"train": samples.all_train, "validation": samples.validation, "test": samples.test}
    samples.counts.update({name: len(found) for name, found in kinds.items()})


def _read(source: Source, counts: Counter[str]) -> SourceSamples:
    media = Path(resolve(source.media)) if source.media else None
    found = read_source(Path(resolve(source.path)), reader=source.reader, media=media, limit=source.limit)
    counts.update(found.counts)
    return found


def _apply_media_policy(samples: Samples, data: Data) -> None:
    """Refuse bad media, or drop the samples that use them and count them, as the recipe says."""
    everything = [*samples.all_train, *samples.validation, *samples.test]
    problems = check_media(everything)
    if not problems:
        return
    if data.bad_media == "error":
        raise DataError("media that cannot be used (data.bad_media=drop leaves their samples out)", problems)
    shown = dict.fromkeys(medium for sample in everything for medium in sample.media)
    bad = {medium for medium in shown if check_media([_showing(medium)])}
    before = len(everything)
    samples.train = [[s for s in source if not _uses(s, bad)] for source in samples.train]
    samples.validation = [s for s in samples.validation if not _uses(s, bad)]
    samples.test = [s for s in samples.test if not _uses(s, bad)]
    after = len(samples.all_train) + len(samples.validation) + len(samples.test)
    samples.counts["dropped for bad media"] = before - after


def _showing(medium: Image | Audio) -> Sample:
    return question_answer("", "", "", media=[medium])


def _uses(sample: Sample, bad: set[Image | Audio]) -> bool:
    return not bad.isdisjoint(sample.media)


def without_media(sample: Sample) -> Sample:
    """Return the sample with its pictures and sounds taken out: what a text-only model is given."""
    messages = tuple(
        Message(message.role, tuple(part for part in message.parts if type(part) not in MEDIA_OF_PART))
        for message in sample.messages
    )
    return replace(sample, messages=messages)


def make_batches(recipe: Recipe, samples: Samples, model: MultimodalLM) -> Batches:
    """Return the stream of training batches."""
    drawers = [
        Drawer(drawn, source, recipe.seed) for drawn, source in zip(samples.train, recipe.data.train, strict=True)
    ]
    return Batches(
        drawers,
        model.template.encode,
        batch_size=recipe.training.batch_size,
        pool=recipe.training.length_pool,
        seed=recipe.seed,
        max_tokens=recipe.data.max_tokens,
    )


def prepare_media(model: MultimodalLM, paths: Sequence[Path], console: Console) -> LoadMedia | None:
    """Return what loads pictures for the model; the frozen trunk's output is computed once and kept."""
    if model.encoder is None or not paths:
        return None
    cache = FeatureCache(model.encoder, load_image, cache_folder() / "features")
    if model.encoder.cacheable:
        with progress(console, "Encoding pictures", len(paths), "pictures") as advance:
            cache.prepare(paths, advance)
        if cache.not_stored:
            console.print(f"[yellow]The encoded pictures could not be kept for the next run: {cache.not_stored}[/]")
    return cache.rows


def standardize_connector(model: MultimodalLM, load_media: LoadMedia | None, paths: Sequence[Path]) -> None:
    """Set the connector's per-channel statistics from the training pictures."""
    if model.encoder is None or model.connector is None or load_media is None:
        return
    encoder, device = model.encoder, model.device

    @torch.no_grad()
    def features(start: int) -> Tensor:
        rows = load_media(paths[start : start + _STATISTICS_CHUNK])
        return encoder.features({name: tensor.to(device) for name, tensor in rows.items()})

    model.connector.standardize(features(start) for start in range(0, len(paths), _STATISTICS_CHUNK))
