"""What a person sees while an asset is fetched: bars and spinners on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cotune.quickstart.space import readable


class Display:
    """Shows the steps of a fetch; the default console writes to stderr, so that stdout stays a command's result."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def line(self, text: str) -> None:
        """Print one line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes the bytes done so far; shows a bar with the rate and the time left."""
        if not self.console.is_terminal:
            self.line(f"{what} ({readable(total)}) ...")
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=min(done, total))

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show a spinner for a step whose length is not known."""
        if not self.console.is_terminal:
            self.line(f"{what} ...")
            yield
            return
        with self.console.status(f"{what} ..."):
            yield
