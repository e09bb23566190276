"""Progress bars and tables on the terminal: one look for every command, with rate and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_REFRESHES = 5  # a second; drawing takes time from the work that is shown


def make_console(*, quiet: bool = False) -> Console:
    """Return the console everything is printed to."""
    from rich.console import Console

    return Console(quiet=quiet, highlight=False)


@contextmanager
def progress(
    console: Console,
    what: str,
    total: int,
    unit: str,
    below: Callable[[], RenderableType] | None = None,
    *,
    done: int = 0,
) -> Iterator[Callable[..., None]]:
    """Show a bar with rate and time left, what `below` returns under it; yields `advance(count=1, note="")`.

    What was `done` before stands in the bar, and counts neither for the rate nor as done in the time told.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )

    class WithMore(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if below is not None:
                yield below()

    # Without a terminal a bar would fill the log: one line at the end says the same.
    with WithMore(*columns, console=console, disable=not console.is_terminal, refresh_per_second=_REFRESHES) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="", note="")

        def advance(count: int = 1, note: str = "") -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "", note=note)

        yield advance
        now, seconds = bar.tasks[0].completed, bar.tasks[0].elapsed or 0.0
    if not console.is_terminal:
        before = f", {done} before" if done else ""
        console.print(f"{what}: {now - done:.0f} {unit} in {seconds:.0f} s{before}")


@contextmanager
def counted_progress(
    console: Console, what: str, unit: str, *, after: float = 0.0
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar once something is counted; yields `progress(done, total)`, cheap enough to call a million times.

    What is over within `after` seconds shows nothing.
    """
    with ExitStack() as stack:
        advance: Callable[..., None] | None = None
        shown, started = 0, monotonic()

        def count(done: int, total: int) -> None:
            nonlocal advance, shown
            if advance is None:
                if after and monotonic() - started < after:
                    return
                advance = stack.enter_context(progress(console, what, total, unit))
            if done == total or done - shown >= max(1, total // 200):
                advance(done - shown)
                shown = done

        yield count


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    from rich.table import Table

    result = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        result.add_row(*row)
    return result
