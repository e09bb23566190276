"""Progress: bars that show nothing where all is over at once."""

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


def test_what_takes_longer_is_shown_with_all_that_was_done(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    assert "Scoring: 3 steps" in counted(after=2.0)
