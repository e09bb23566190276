"""What several commands take and print on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def told_when_stopped(text: Callable[[], str]) -> Iterator[None]:
    """Say, when Ctrl-C ends the block, what is kept and how to go on.

    Raises:
        InterruptedRunError: in the place of a KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        from cotune.training.stopping import InterruptedRunError

        raise InterruptedRunError(text()) from None
