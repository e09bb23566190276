"""The quickstart command's own decisions, on a tiny model instead of the fetched ones."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.training import quickstart
from cotune.training.catalogue import find_recipe
from tests.tiny import tiny_recipe


@pytest.fixture
def tiny_quickstart(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let the command run the tiny recipe; returns the overrides it asked for."""
    asked: list[list[str]] = []

    def find(name: str, overrides: list[str]) -> Recipe:
        asked.append(list(overrides))
        content = tiny_recipe(root, "training.steps=2").model_dump(mode="json")
        kept = [override for override in overrides if override.startswith(("seed=", "output="))]
        return parse_recipe(content, kept)

    monkeypatch.setattr(quickstart, "find_recipe", find)
    monkeypatch.setattr(quickstart, "ensure", lambda names, console: dict.fromkeys(names, root))
    return asked


def run(**options: Any) -> Any:
    defaults: dict[str, Any] = {"full": False, "seed": 0, "output": None}
    return quickstart.run_quickstart(Console(file=StringIO()), **defaults | options)


def test_an_earlier_run_is_kept_under_another_name(tiny_quickstart: list[list[str]], root: Path) -> None:
    first = run()
    weights = (first.adapter / "adapter.safetensors").read_bytes()
    run(seed=1)
    assert (root / "run.1" / "adapter" / "adapter.safetensors").read_bytes() == weights
    assert (root / "run" / "result.json").exists()


def test_full_trains_every_baseline(tiny_quickstart: list[list[str]]) -> None:
    baselines = run(full=True).read_result()["baselines"]
    assert all(scores is not None for scores in baselines.values())


def test_the_plain_run_leaves_trained_baselines_empty(tiny_quickstart: list[list[str]]) -> None:
    baselines = run().read_result()["baselines"]
    assert baselines["majority"] is not None
    assert baselines["lora"] is None


def test_seed_and_folder_change_the_recipe(
    tiny_quickstart: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(seed=3, output="elsewhere")
    other, plain = find_recipe("quickstart", tiny_quickstart[0]), find_recipe("quickstart")
    assert (other.seed, str(other.folder)) == (3, "elsewhere")
    assert (plain.seed, str(plain.folder)) == (0, "runs/quickstart")
    assert other.training == plain.training
