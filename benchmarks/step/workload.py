"""The samples all contestants learn from: quickstart pictures and questions, as long as ScienceQA's are modelled.

How long samples are, and how many have a picture, is `benchmarks/padding.py`'s model. The answer (answer, lecture and
explanation in ScienceQA, of whose questions 84% have a lecture and 91% an explanation) takes 60% of a sample's tokens:
assumed, not measured; `--answer-share` takes another share.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from padding import science_qa_like  # benchmarks/padding.py
from rich.console import Console
from safetensors.torch import save_file

from cotune.messages import Image, Sample, Text
from cotune.model.multimodal_lm import MultimodalLM
from cotune.quickstart import resolve
from cotune.recipe import Recipe
from cotune.training.catalogue import find_recipe
from cotune.training.model_and_data import Prepared
from cotune.training.run import prepare_training

DATA = "quickstart:easy-vqa/train"


@dataclass(frozen=True)
class Plan:
    """How much there is to learn in a round, and how: `shorter` divides every length, for a quick look."""

    samples: int
    batch_size: int
    answer_share: float
    shorter: int = 1


def recipe_for(plan: Plan, data: Path, precision: str, changes: Sequence[str] = ()) -> Recipe:
    """Return the quickstart's recipe on the benchmark's data; text learns as well, since half the samples are text."""
    return find_recipe(
        "quickstart",
        [
            f"data.train=[{{path: {data}, reader: chat, media: {_pictures(data)}}}]",
            "data.test=[]",
            "data.validation_share=0",
            "model.llm.routing.text=trained",
            f"model.llm.dtype={'bfloat16' if precision == 'bf16' else 'float32'}",
            f"training.batch_size={plan.batch_size}",
            f"training.length_pool={plan.samples // plan.batch_size}",
            "coordination.measure_every=0",
            *changes,
        ],
    )


def _pictures(data: Path) -> str:
    return json.loads((data.parent / "about.json").read_text(encoding="utf-8"))["pictures"]


def write_samples(plan: Plan, folder: Path, console: Console) -> Path:
    """Write the samples as conversations and return their file."""
    source = prepare_source(console)
    known, tokenizer = list(source.samples.all_train), source.model.template.tokenizer
    generator = random.Random(0)
    sentences = [" ".join(_texts(sample)) for sample in known[:2000]]
    long = {sentence: len(tokenizer.encode(sentence)) for sentence in sentences}
    records = []
    for wanted in science_qa_like(plan.samples, generator):
        length = len(wanted) // plan.shorter
        question = generator.choice(known)
        picture = question.media[0] if wanted.feature_spans else None
        asked, answer = _texts(question)
        prompt = _filled(asked, round(length * (1 - plan.answer_share)) - 20, long, generator)
        reply = _filled(f"{answer}.", round(length * plan.answer_share) - 5, long, generator)
        records.append(_record(prompt, reply, picture if isinstance(picture, Image) else None))
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    first = next(part for part in known[0].media)
    (folder / "about.json").write_text(json.dumps({"pictures": str(first.path.parent)}), encoding="utf-8")
    return file


def prepare_source(console: Console) -> Prepared:
    """Return the quickstart with a part of its data."""
    return prepare_training(find_recipe("quickstart", ["data.train.0.limit=2000", "data.test=[]"]), console)


def _texts(sample: Sample) -> list[str]:
    """Return what is said in a sample, turn by turn."""
    return [part.text for message in sample.messages for part in message.parts if isinstance(part, Text)]


def _filled(text: str, tokens: int, sentences: dict[str, int], generator: random.Random) -> str:
    """Return a text with sentences behind it, of about so many tokens together."""
    left, parts = tokens - 8, [text]
    names = list(sentences)
    while left > 0:
        parts.append(generator.choice(names))
        left -= sentences[parts[-1]] + 1
    return " ".join(parts)


def _record(prompt: str, reply: str, picture: Image | None) -> dict[str, Any]:
    content: list[dict[str, str]] = [] if picture is None else [{"type": "image", "image": picture.path.name}]
    return {
        "messages": [
            {"role": "user", "content": [*content, {"type": "text", "text": prompt}]},
            {"role": "assistant", "content": reply},
        ]
    }


@torch.no_grad()
def write_for_peers(prepared: Prepared, file: Path) -> dict[str, float]:
    """Write the same samples as token ids, targets and finished picture features; return what they are like."""
    model: MultimodalLM = prepared.model
    encoded = [model.template.encode(sample) for sample in prepared.samples.all_train]
    pictures = [sample.sample.media[0].path for sample in encoded if sample.feature_spans]
    features = model.encoder("image").features(prepared.loaders["image"](pictures))  # [pictures, tokens, width]
    connector = model.connector("image")
    standard = (features - connector.mean) / connector.deviation
    rows = iter(range(len(pictures)))
    content = {
        "language_model": str(resolve(prepared.recipe.model.llm.path)),
        "hidden": connector.input.out_features,
        "scale": float(connector.output_scale),
        "samples": [
            {
                "tokens": sample.tokens,
                # In transformers a label stands at the token's own place, not at the one that predicts it.
                "labels": [-100, *sample.targets[:-1]],
                "span": sample.feature_spans[0] if sample.feature_spans else None,
                "row": next(rows) if sample.feature_spans else None,
            }
            for sample in encoded
        ],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    save_file({"features": standard.float().contiguous()}, file.with_suffix(".safetensors"))
    lengths = sorted(map(len, encoded))
    return {
        "tokens": sum(lengths),
        "loss_tokens": sum(sample.answer_tokens for sample in encoded),
        "median_length": lengths[len(lengths) // 2],
        "longest": lengths[-1],
        "pictures": len(pictures),
    }
