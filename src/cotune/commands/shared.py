"""What several commands take and print on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes to the recipe")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run folder, for example runs/quickstart")]


def console_of_rank() -> Console:
    """Return the console to print on: silent in all processes but the first."""
    from cotune.progress import make_console
    from cotune.ranks import is_main

    return make_console(quiet=not is_main())
