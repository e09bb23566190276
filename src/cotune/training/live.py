"""What `cotune train` shows while it runs: under the bar, the essentials of the report, from the rows of the trace."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.text import Text

from cotune.progress import progress
from cotune.trace import Row, Trace, read_trace

_WIDTH = 40  # characters of the curve
_WINDOW = 20  # steps that a rate is the mean of
_BLOCKS = "▁▂▃▄▅▆▇█"
_GIB = 2**30


@contextmanager
def tuning_display(console: Console, steps: int, trace: Trace, *, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar for a run's steps and the essentials of its trace below; yields `advance(count=1, note="")`.

    `done` steps were taken before the run was resumed.

    Without a terminal there is the bar's one line only.
    """
    if not console.is_terminal:
        with progress(console, "Tuning", steps, "steps", done=done) as advance:
            yield advance
        return
    essentials = Essentials()
    for row in read_trace(trace.path) if trace.path.exists() else ():
        essentials.see(row)
    trace.listeners.append(essentials.see)
    try:
        with progress(console, "Tuning", steps, "steps", lambda: essentials.lines, done=done) as advance:
            yield advance
    finally:
        trace.listeners.remove(essentials.see)


class Essentials:
    """Takes in the rows of a trace and keeps a few lines that say how the run stands."""

    def __init__(self) -> None:
        self.lines: RenderableType = Text()
        self._losses: list[float] = []
        self._every, self._held = 1, [0.0, 0]
        self._speeds: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._step: Row = {}
        self._newest: dict[str, Row] = {}
        self._skipped = 0

    def see(self, row: Row) -> None:
        """Take in a row; an unknown event changes nothing."""
        event = row["event"]
        if event == "step":
            self._see_step(row)
        elif event == "skipped":
            self._skipped += 1
        elif event in ("start", "validation", "held_out", "moved"):
            self._newest[event] = row
        self.lines = Group(*map(_one_line, self._lines()))

    def _see_step(self, row: Row) -> None:
        self._step = row
        self._speeds.append((row.get("tokens", 0), row.get("step_seconds", 0.0)))
        if "balance" in row:
            self._newest["balance"] = row["balance"]
        if math.isfinite(row["loss"]):
            self._add_loss(row["loss"])

    def _add_loss(self, loss: float) -> None:
        """Keep means of equally many steps, as many as fit the curve."""
        self._held = [self._held[0] + loss, self._held[1] + 1]
        if self._held[1] < self._every:
            return
        self._losses.append(self._held[0] / self._held[1])
        self._held = [0.0, 0]
        if len(self._losses) == _WIDTH:
            pairs = zip(self._losses[::2], self._losses[1::2], strict=True)
            self._losses, self._every = [(a + b) / 2 for a, b in pairs], 2 * self._every

    def _lines(self) -> Iterator[str]:
        if not self._losses:
            return
        yield f"  loss     {curve(self._losses)}  {self._losses[-1]:.3f}{self._watched()}"
        yield from self._by_component("rate", self._step.get("rates", {}), "{:.1e}")
        yield from self._by_component("gradient", self._step.get("gradient_norms", {}), "{:.2g}")
        yield from self._balance(self._newest.get("balance", {}))
        yield f"  speed    {self._speed()}"
        if self._skipped:
            yield f"  [yellow]skipped  {self._skipped} steps without a finite loss or gradient[/]"

    def _watched(self) -> str:
        """Return the newest numbers on held-out samples."""
        told = []
        if "held_out" in self._newest:
            told.append(f"held out {self._newest['held_out']['loss']:.3f}")
        scores = self._newest.get("validation", {}).get("scores", {})
        told += [f"{_plain(name)} {value:.3f}" for name, value in list(scores.items())[:2] if value is not None]
        return "".join(f" · {text}" for text in told)

    def _by_component(self, name: str, values: Mapping[str, float], form: str) -> Iterator[str]:
        if values:
            yield f"  {name:<8} " + " · ".join(f"{_plain(part)} {form.format(value)}" for part, value in values.items())

    def _balance(self, found: Mapping[str, Any]) -> Iterator[str]:
        diagnosis = found.get("diagnosis", {})
        average = diagnosis.get("log_kappa_average")
        if average is None:
            return
        ahead = "language side" if average > 0 else "feature side"
        kl = " · ".join(f"{part} {value:.1e}" for part, value in found["divergence"].items())
        yield f"  balance  log kappa {average:+.2f}: {ahead} ahead · KL of a step: {kl}"
        flags = [name for name in ("biased", "alternating") if diagnosis.get(name)]
        parts = diagnosis.get("components", {})
        flags += [f"{name} learns too little" for name, part in parts.items() if part.get("insufficient")]
        if flags:
            yield f"  [yellow]flags    {', '.join(flags)}: cotune report says what to do[/]"

    def _speed(self) -> str:
        tokens, seconds = (sum(column) for column in zip(*self._speeds, strict=True))
        told = f"{tokens / seconds:,.0f} tokens/s" if seconds else "-"
        peak = self._step.get("peak_memory_bytes")
        if peak:
            told += f" · peak memory {peak / _GIB:.2f} GiB"
        expected = (self._newest.get("start", {}).get("memory") or {}).get("expected")
        return told + (f", a step was estimated at {expected / _GIB:.2f}" if expected else "")


def _plain(name: str) -> str:
    """Return a name from data as one line without styles."""
    return escape(" ".join(name.split()))


def _one_line(markup: str) -> Text:
    text = Text.from_markup(markup, overflow="ellipsis")
    text.no_wrap = True
    return text


def curve(values: list[float]) -> str:
    """Return numbers as a line of block characters, the least and the largest as the lowest and the highest one."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1))] for value in values)
