"""Progress: bars that show nothing where all is over at once."""

import re
from io import StringIO

import pytest
from rich.console import Console

from cotune import progress


def counted(after: float) -> str:
    console = Console(file=StringIO(), width=100)
    with progress.counted_progress(console, "Scoring", "steps", after=after) as count:
        for number in range(1, 4):
            count(number, 3)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_over_at_once_shows_nothing():
    assert counted(after=60.0) == ""
    assert "Scoring: 3 steps" in counted(after=0.0)


def test_what_was_done_before_is_not_claimed_for_the_time_told():
    told = []
    for terminal in (False, True):
        console = Console(file=StringIO(), width=100, force_terminal=terminal)
        with progress.progress(console, "Tuning", 600, "steps", done=500) as advance:
            for _ in range(100):
                advance()
        told.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert re.fullmatch(r"Tuning: 100 steps in \d+ s, 500 before\n", told[0])
    assert "500/600" in told[1] and "600/600" in told[1]


def test_what_takes_longer_is_shown_with_all_that_was_done(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    assert "Scoring: 3 steps" in counted(after=2.0)
