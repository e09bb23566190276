"""A model card for the Hugging Face hub: what a finished run says of itself, with the metadata the hub reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cotune.errors import RunFolderError, first_line
from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.components import components_section
from cotune.reporting.report.costs import costs_section
from cotune.reporting.report.data import data_section
from cotune.reporting.report.findings import findings
from cotune.reporting.report.judged_by import judged_by, main_score
from cotune.reporting.report.learning import learning_section
from cotune.reporting.report.markdown import block_markdown, plain
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.summary import environment_section, status_line
from cotune.whole_file import write_whole

# What the hub takes as the name of a model, and of a data set: OWNER/NAME, or a name of its early days.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_PIPELINES = {
    ("image",): "image-text-to-text",
    ("audio",): "audio-text-to-text",
    ("image", "audio"): "any-to-any",
    (): "text-generation",
}


def write_card(
    record: RunRecord, file: Path, *, license: str | None = None, language: str | None = None, overwrite: bool = False
) -> Path:
    """Write the model card of a finished run and return its file.

    Raises:
        RunFolderError: for an unfinished run, a file that is there already, or metadata the hub's library refuses.
    """
    if file.exists() and not overwrite:
        raise RunFolderError(f"{file} exists already; replace it by --overwrite, or write elsewhere by --out FILE")
    write_whole(file, model_card(record, license=license, language=language))
    return file


def model_card(record: RunRecord, *, license: str | None = None, language: str | None = None) -> str:
    """Return the card of a finished run: YAML metadata, then Markdown.

    Raises:
        RunFolderError: for an unfinished run, or metadata that the hub's library cannot read back.
    """
    if record.state != "finished" or not record.result:
        raise RunFolderError(f"{record.folder} is not finished ({record.state}): there is no result to write a card of")
    metadata = _metadata(record, license, language)
    content = f"---\n{metadata.to_yaml()}\n---\n\n{_body(record)}"
    try:
        ModelCard(content)
    except ValueError as error:
        raise RunFolderError(f"the card's metadata are not valid: {first_line(error)}") from error
    return content


def media_of(record: RunRecord) -> tuple[str, ...]:
    """Return the media the model has encoders for, images first."""
    return tuple(medium for medium in ("image", "audio") if record.setting("model", "encoders", medium))


def _metadata(record: RunRecord, license: str | None, language: str | None) -> ModelCardData:
    """Return what the hub reads; base models and data sets are named where they are names on the hub."""
    pipeline = _PIPELINES[media_of(record)]
    bases = [path for path in _base_paths(record) if _is_on_hub(path)]
    sources = [str(source.get("path", "")) for source in record.setting("data", "train") or ()]
    datasets = [path.removeprefix("hub:") for path in sources if path.startswith("hub:")]
    return ModelCardData(
        model_name=record.name,
        license=license,
        language=language,
        library_name="cotune",
        pipeline_tag=pipeline,
        tags=["cotune", "adapters", "multimodal", *(f"{medium}-input" for medium in media_of(record))],
        base_model=bases or None,
        base_model_relation="adapter" if bases else None,
        datasets=datasets or None,
        metrics=None if main_score(record) is None else [judged_by(record)[0]],
        eval_results=list(_results(record, pipeline)) or None,
    )


def _base_paths(record: RunRecord) -> list[str]:
    paths = [record.setting("model", "llm", "path")]
    paths += [record.setting("model", "encoders", medium, "path") for medium in media_of(record)]
    return [str(path) for path in paths if path]


def _is_on_hub(path: str) -> bool:
    """Return whether a path can only be a name on the hub: no file, and not the quickstart's."""
    return bool(_HUB_NAME.fullmatch(path)) and not Path(path).exists()


def _results(record: RunRecord, pipeline: str) -> Iterator[EvalResult]:
    """Return the finite test scores as the hub lists them; nobody else has verified them."""
    task = str(record.setting("evaluation", "task") or "test")
    for name, value in (record.newest("test").get("scores") or {}).items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield EvalResult(
                task_type=pipeline,
                dataset_type=task,
                dataset_name=task,
                dataset_split="test",
                metric_type=name,
                metric_name=name.replace("_", " "),
                metric_value=round(float(value), 6),
            )


def _body(record: RunRecord) -> str:
    parts = [
        f"# {plain(record.name)}\n",
        _about(record),
        "## Use\n",
        _usage(record),
        "## Results\n",
        *_tables(learning_section(record).blocks),
        "## What to know\n",
        *(f"- {plain(item.text)}" for item in findings(record)),
        "- Not measured here: bias, safety, other languages, and inputs unlike the test set's.\n",
        "## Training\n",
        f"{status_line(record)}.\n",
        *_tables(components_section(record).blocks),
        *_tables(data_section(record).blocks),
        *_tables(costs_section(record).blocks),
        *_tables(environment_section(record).blocks),
    ]
    return "\n".join(parts)


def _about(record: RunRecord) -> str:
    """Return what the model is made of; of local paths only the last name."""
    names = [plain(path if _is_on_hub(path) or ":" in path else Path(path).name) for path in _base_paths(record)]
    tune = record.setting("components", "llm", "tune") or "adapters"
    media = " and ".join({"image": "pictures", "audio": "sounds"}[medium] for medium in media_of(record)) or "text"
    routing = record.setting("model", "llm", "routing") or {}
    told = f"Answers questions about {media}. Base models: {', '.join(names) or 'not named in the recipe'}. "
    told += f"The language model learned by: {plain(str(tune))}."
    if record.result.get("text_kl") == 0.0 and routing.get("text") == "base":
        told += " Without media it is the base model, bit for bit."
    return told + " Only what was trained lies here; the base models are fetched or named in `recipe.yaml`.\n"


def _usage(record: RunRecord) -> str:
    flags = {"image": "--image picture.png", "audio": "--audio sound.wav"}
    shown = " ".join(flags[medium] for medium in media_of(record))
    return (
        "With cotune installed:\n\n```bash\nhf download OWNER/NAME --local-dir model      # this repository\n"
        f"cotune chat model {shown}\n```\n"
    )


def _tables(blocks: Sequence[Any]) -> Iterator[str]:
    """Return the tables among blocks; figures and what is missing belong in a report."""
    for block in blocks:
        if isinstance(block, Printed):
            yield block_markdown(block, "")
