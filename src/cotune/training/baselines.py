"""The baselines a result is read against, each trained by the same recipe with one thing taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from cotune.evaluation.score_tables import share_title, shown_share
from cotune.evaluation.tasks import TASKS
from cotune.progress import table
from cotune.ranks import is_main
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.run_folder import RunFolder
from cotune.training.result import BASELINES, compared_scores
from cotune.training.run import train

# What each trained baseline changes. `text_only` needs an expert for text, which otherwise stays the base model.
CHANGES: dict[str, list[str]] = {
    "text_only": ["data.blank_media=true", "model.llm.routing.text=trained", "components.vision.tune=frozen"],
    "connector_only": ["components.llm.tune=frozen", "components.vision.tune=frozen"],
    "random_encoder": ["model.encoders.image.weights=random"],
    "lora": ["components.llm.tune=lora"],
}
# LoRA changes the text path as well, and that is half of what it is compared for.
TEXT_COMPARED = ("lora",)
TEXT_KEYS = ("text_kl", "text_loss")


def baseline_recipe(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe of a trained baseline, at equal steps and data, in a folder inside the run's own."""
    folder = recipe.folder / "baselines" / name
    changes = [*CHANGES[name], f"name={recipe.name}-{name}", f"output={folder}"]
    changes += ["evaluation.tasks_every=null", "evaluation.tasks=[]"]  # a baseline is compared on the test set
    if name not in TEXT_COMPARED:
        changes.append("evaluation.text_retention=false")
    return parse_recipe(recipe.model_dump(mode="json"), changes, where=f"baseline {name}")


def run_baselines(recipe: Recipe, result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Train and score every baseline and return the result with their accuracies filled in.

    The result file is written after each one, so an interrupted run keeps what it has.
    """
    for name in CHANGES:
        console.rule(f"baseline: {name}")
        scores = train(baseline_recipe(recipe, name), console)
        text = {key: scores[key] for key in TEXT_KEYS} if name in TEXT_COMPARED else {}
        result["baselines"][name] = compared_scores(recipe.evaluation.task, scores) | text
        if is_main():
            RunFolder(recipe.folder).write_result(result)
    return result


def result_table(result: dict[str, Any]) -> Any:
    """Return the table of a result beside its baselines: the scores its task is compared by, the main one first."""
    names = TASKS[result["task"]].headline
    rows = [["this run", *_cells(names, result), _divergence(result)]]
    for name in BASELINES:
        scores = result["baselines"].get(name)
        cells = ["not run"] * len(names) if scores is None else _cells(names, scores)
        rows.append([name.replace("_", " "), *cells, _divergence(scores or {})])
    columns = ["", *map(share_title, names), "text: KL from base"]
    return table(f"{result['name']}: {result['task']} on the test set", columns, rows)


def _divergence(scores: dict[str, Any]) -> str:
    value = scores.get("text_kl")
    return "-" if value is None else f"{value:.2f}"


def _cells(names: Sequence[str], scores: Mapping[str, Any]) -> list[str]:
    return [shown_share(name, scores.get(name)) for name in names]
