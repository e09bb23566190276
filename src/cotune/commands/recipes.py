"""Commands that list and copy the built-in recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.commands.shared import console_of_rank

app = typer.Typer(help="List the built-in recipes, or copy one to edit.", no_args_is_help=True)


@app.command("ls", epilog="Example: cotune recipes ls")
def list_recipes() -> None:
    """List the built-in recipes."""
    from cotune.progress import table
    from cotune.training.catalogue import built_in, describe

    rows = [[name, describe(path)] for name, path in built_in().items()]
    grid = table("Recipes", ["name", "what it does"], rows)
    grid.columns[1].justify = "left"
    console_of_rank().print(grid)


@app.command("cp", epilog="Example: cotune recipes cp own-model my.yaml")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="a built-in recipe")],
    target: Annotated[Path, typer.Argument(help="file to write")],
) -> None:
    """Copy a built-in recipe to a file of yours."""
    from cotune.errors import RecipeError, nearest
    from cotune.training.catalogue import built_in

    known = built_in()
    if name not in known:
        raise RecipeError("recipes cp", [f"no built-in recipe '{name}'{nearest(name, list(known))}"])
    if target.exists():
        raise RecipeError("recipes cp", [f"{target} exists already; choose another name"])
    target.write_text(known[name].read_text(encoding="utf-8"), encoding="utf-8")
    console_of_rank().print(f"{target} written; edit it, then run: cotune train {target}")
