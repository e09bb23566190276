"""What tuning on pictures does to text: each way of routing, and LoRA, with and without text in the mix.

Tunes the quickstart's models on easy-VQA for a few hundred steps per row and measures, on each path, the loss on a
held-out text that was written for cotune, the KL from the base model's replies, and how far the experts have parted.

    python benchmarks/text_kept.py --steps 150 --output runs/text-kept
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from measuring import ASSETS, write
from measuring import result as result_of
from rich.console import Console

from cotune.progress import table
from cotune.quickstart import ensure
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.run_folder import RunFolder
from cotune.training.catalogue import find_recipe
from cotune.training.run import train

TEXT_SOURCE = {"path": "quickstart:chatterbot-corpus/dialogues.jsonl", "reader": "chat"}
TEXT_SHARE = 0.25
ROWS: dict[str, tuple[list[str], bool]] = {
    "hard, text: base": ([], False),
    "hard, text: trained, with text": (["model.llm.routing.text=trained"], True),
    "soft": (["model.llm.routing.mode=soft"], False),
    "soft, with text": (["model.llm.routing.mode=soft"], True),
    "soft-legacy": (["model.llm.routing.mode=soft-legacy"], False),
    "soft-legacy, with text": (["model.llm.routing.mode=soft-legacy"], True),
    "LoRA q,v": (["components.llm.tune=lora"], False),
    "LoRA q,v, with text": (["components.llm.tune=lora"], True),
}


def recipe_for(name: str, steps: int, seed: int, output: Path) -> Recipe:
    """Return the quickstart's recipe with one row's changes, and a quarter of text where the row says so."""
    changes, with_text = ROWS[name]
    folder = output / name.replace(": ", "-").replace(", ", "_").replace(" ", "-").replace(",", "")
    recipe = find_recipe("quickstart", [f"seed={seed}", f"training.steps={steps}", f"output={folder}", *changes])
    content = recipe.model_dump(mode="json")
    content["evaluation"]["limit"] = 1000
    content["training"]["evaluate_every"] = steps + 1  # nothing is chosen, so nothing is validated
    if with_text:
        content["data"]["train"].append({**TEXT_SOURCE, "weight": TEXT_SHARE / (1 - TEXT_SHARE)})
    return parse_recipe(content, where=name)


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the benchmark keeps of a result."""
    separation = result.get("expert_separation") or {}
    return {
        "open_accuracy": result["open_accuracy"],
        "text_loss": result["text_loss"],
        "text_kl": result["text_kl"],
        "text_reply": result["text_reply"],
        "expert_cosine": separation.get("cosine"),
        "expert_weight_gap": separation.get("weight_gap"),
        "expert_verdict": separation.get("verdict"),
    }


def show(rows: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the table."""

    def number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = [
        [
            name,
            number(row["open_accuracy"]),
            number(row["text_loss"]["before"]),
            number(row["text_loss"]["after"]["text"]),
            number(row["text_loss"]["after"].get("image")),
            number(row["text_kl"]),
            number(row["expert_cosine"]),
            number(row["expert_weight_gap"]),
        ]
        for name, row in rows.items()
    ]
    heads = ["", "open accuracy", "loss before", "text path", "image path", "text KL", "cosine", "weight gap"]
    console.print(table("Text kept, and experts parted", heads, lines))


def main() -> None:
    """Run the rows that have no result yet, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/text-kept"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    arguments = parser.parse_args()
    console = Console()
    ensure((*ASSETS, "chatterbot-corpus"), console)
    rows: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}
    for name in arguments.rows:
        recipe = recipe_for(name, arguments.steps, arguments.seed, arguments.output)
        run = RunFolder(recipe.folder)
        console.rule(name)
        result = run.read_result() if (run.path / "result.json").exists() else train(recipe, console)
        rows[name], versions = row_of(result), result["versions"]
    show(rows, console)
    about = {"steps": arguments.steps, "seed": arguments.seed, "text_share": TEXT_SHARE}
    summary = result_of("text_kept", {"rows": rows}, **about) | {"versions": versions}
    console.print(f"{write(summary)} written")


if __name__ == "__main__":
    main()
