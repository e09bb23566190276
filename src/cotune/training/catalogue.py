"""The recipes that come with cotune, and how a name on the command line becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from cotune.errors import RecipeError, nearest
from cotune.recipe import Recipe
from cotune.recipe.reading import load_recipe


def recipes_folder() -> Path:
    """Return the folder of the built-in recipes: inside the installed package, or the repository's own."""
    installed = Path(str(files("cotune"))) / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"


def built_in() -> dict[str, Path]:
    """Return the built-in recipes by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def describe(path: Path) -> str:
    """Return what a recipe does: its first comment line without the name."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip().partition(":")[2].strip()


def find_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a YAML file, or the built-in one of that name.

    Raises:
        RecipeError: when there is neither, or the recipe has problems (all of them are listed).
    """
    path = Path(name)
    if not path.is_file():
        known = built_in()
        if name not in known:
            raise RecipeError(
                f"no recipe '{name}'", [f"neither a file nor a built-in recipe{nearest(name, list(known))}"]
            )
        path = known[name]
    return load_recipe(path, overrides)
