"""A recipe's data before the first step: sources read, media checked, batches drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from cotune.data.batching import Batches
from cotune.data.composing import Budget
from cotune.data.drawing import Drawer
from cotune.data.lazy_samples import joined, mapped, where
from cotune.data.media_check import look_at_media
from cotune.data.media_store import blank_picture, blank_sound
from cotune.data.passes import Row, cut_into_passes
from cotune.data.readers import Access
from cotune.data.sources import read_source, split_by_media
from cotune.data.template import Encoded
from cotune.data.too_long import TooLong
from cotune.errors import DataError
from cotune.messages import MEDIA_OF_PART, TEXT, Audio, Image, Message, Sample, Text
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import counted_progress, make_console
from cotune.quickstart import resolve
from cotune.recipe import Data, Recipe, Source, Training


@dataclass
class Samples:
    """The samples of a recipe: those of each training source, those held out for choosing, and the test.

    `readers` says of each source who read it and why.
    """

    train: list[Sequence[Sample]]
    validation: Sequence[Sample]
    test: Sequence[Sample]
    counts: Counter[str] = field(default_factory=Counter)
    readers: list[str] = field(default_factory=list)

    @property
    def all_train(self) -> Sequence[Sample]:
        """The training samples of all sources."""
        return joined(self.train)

    @property
    def everything(self) -> Sequence[Sample]:
        """The samples of all sources and splits."""
        return joined([*self.train, self.validation, self.test])


def media_paths(samples: Iterable[Sample]) -> dict[str, list[Path]]:
    """Return every file some samples use, once, in order, by its kind of medium."""
    found: dict[str, dict[Path, None]] = {}
    for sample in samples:
        for part in sample.media:
            found.setdefault(MEDIA_OF_PART[type(part)], {})[part.path] = None
    return {kind: list(paths) for kind, paths in found.items()}


def read_samples(data: Data, seed: int, *, test_limit: int | None = None, console: Console | None = None) -> Samples:
    """Return the samples of a recipe's sources, split and checked; nothing is skipped without being counted.

    What takes long is shown on the console.

    Raises:
        DataError: naming every faulty line, sample and picture.
    """
    console = console or make_console(quiet=True)
    result = Samples([], [], [])
    held_out: list[Sequence[Sample]] = []
    for source in data.train:
        train, chosen = split_by_media(_read(source, data, result, console), data.validation_share, seed)
        result.train.append(train)
        held_out.append(chosen)
    result.validation = joined(held_out)
    result.test = joined(_read(source, data, result, console) for source in data.test)[:test_limit]
    _finish(result, data, console)
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
    samples.train = [where(source, lambda sample: sample.modality != TEXT) for source in samples.train]
    if len(samples.all_train) == before:
        return
    samples.counts["text-only, left out of training"] = before - len(samples.all_train)
    samples.counts["train"] = len(samples.all_train)
    empty = [source.path for source, kept in zip(recipe.data.train, samples.train, strict=True) if not kept]
    if empty:
        advice = "it is text only, and the text path is frozen; set model.llm.routing.text=trained to learn from it"
        raise DataError("sources that nothing can be learned from", [f"{path}: {advice}" for path in empty])


def check_encoders(samples: Samples, recipe: Recipe) -> None:
    """Raise DataError when samples hold a medium that the recipe names no encoder for."""
    named = recipe.model.encoders.by_medium
    problems: dict[str, str] = {}
    for sample in samples.everything:
        for kind in {MEDIA_OF_PART[type(part)] for part in sample.media} - named.keys():
            place = f"sample '{sample.id}' ({sample.origin}) is the first that holds {kind}"
            problems.setdefault(kind, f"{place}; name an encoder: model.encoders.{kind}")
    if problems:
        raise DataError("media without an encoder", list(problems.values()))


def read_test(data: Data, *, limit: int | None = None, console: Console | None = None) -> Samples:
    """Return the test samples alone, as `read_samples` would.

    Raises:
        DataError: when the recipe names no test source, or naming every faulty line, sample and picture.
    """
    if not data.test:
        raise DataError("nothing to score", ["data.test: the recipe names no test source"])
    console = console or make_console(quiet=True)
    result = Samples([], [], [])
    result.test = joined(_read(source, data, result, console) for source in data.test)[:limit]
    _finish(result, data, console)
    return result


def read_training_sources(data: Data, console: Console) -> Sequence[Sample]:
    """Return the samples of all training sources as they are read, their media not looked at.

    Raises:
        DataError: naming every faulty line.
    """
    return joined(_read(source, data, Samples([], [], []), console) for source in data.train)


def _finish(samples: Samples, data: Data, console: Console) -> None:
    """Apply the recipe's policies on media, and count what is left."""
    _apply_media_policy(samples, data, console)
    if data.blank_media:
        _change(samples, lambda source: mapped(source, without_media))
    kinds = {"train": samples.all_train, "validation": samples.validation, "test": samples.test}
    samples.counts.update({name: len(found) for name, found in kinds.items()})


def _read(source: Source, data: Data, result: Samples, console: Console) -> Sequence[Sample]:
    """Return the samples of a source; what was counted, and who read it, goes into the result."""
    media = Path(resolve(source.media)) if source.media else None
    with counted_progress(console, f"Reading {source.path}", "records") as count:
        found = read_source(
            Path(resolve(source.path)),
            reader=source.reader,
            media=media,
            limit=source.limit,
            options=source.options,
            access=Access(outside_root=data.allow_outside_root, urls=data.allow_urls),
            progress=count,
        )
    result.counts.update(found.counts)
    result.readers.append(f"{source.path}: {found.reader}, {found.why} ({len(found.samples):,} samples)")
    return found.samples


def _change(samples: Samples, change: Callable[[Sequence[Sample]], Sequence[Sample]]) -> None:
    """Change the samples of every part."""
    samples.train = [change(source) for source in samples.train]
    samples.validation, samples.test = change(samples.validation), change(samples.test)


def _apply_media_policy(samples: Samples, data: Data, console: Console) -> None:
    """Refuse bad media, drop the samples that use them or put blanks in their place, and count it, as the recipe says.

    Raises:
        DataError: naming every file that cannot be used, when `data.bad_media` is `error`.
    """
    with counted_progress(console, "Checking media", "files") as count:
        report = look_at_media(samples.everything, count, decode=data.media_check == "full")
    samples.counts.update(report.counts)
    if not report.faults:
        return
    if data.bad_media == "error":
        advice = "data.bad_media=drop leaves their samples out, blank puts a blank in their place"
        raise DataError(f"media that cannot be used ({advice})", report.lines)
    bad = report.faults.keys()
    before = len(samples.everything)
    if data.bad_media == "drop":
        _change(samples, lambda source: where(source, lambda sample: bad.isdisjoint(sample.media)))
        samples.counts["dropped for bad media"] = before - len(samples.everything)
        return
    samples.counts["blanks in place of bad media"] = sum(
        part in bad for sample in samples.everything for part in sample.media
    )
    blanks = {part: Image(blank_picture()) if isinstance(part, Image) else Audio(blank_sound()) for part in bad}
    _change(samples, lambda source: mapped(source, lambda sample: with_parts(sample, blanks)))


def with_parts(sample: Sample, others: Mapping[Image | Audio, Image | Audio]) -> Sample:
    """Return the sample with some of its pictures and sounds replaced by others."""
    messages = tuple(
        replace(
            message, parts=tuple(part if isinstance(part, Text) else others.get(part, part) for part in message.parts)
        )
        for message in sample.messages
    )
    return replace(sample, messages=messages)


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
    settings = recipe.training
    return Batches(
        drawers,
        model.template.encode,
        TooLong(recipe.data.too_long, model.template, recipe.data.max_tokens),
        budget=Budget(settings.batch_size, settings.batch_tokens, settings.batch_media),
        pool=settings.length_pool,
        seed=recipe.seed,
        by_length=settings.pack_tokens is None,
    )


def passes_of(batch: Sequence[Encoded], settings: Training) -> list[list[Row]]:
    """Return a batch cut into what runs through the model at once, as the recipe says."""
    budget = Budget(settings.micro_batch_size, settings.micro_batch_tokens, settings.micro_batch_media)
    return cut_into_passes(batch, budget, settings.pack_tokens)
