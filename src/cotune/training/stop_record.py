"""Why a run ended before its last step, in its trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cotune.errors import CotuneError, first_line
from cotune.trace import Trace
from cotune.training.loop import TrainingLoop


@contextmanager
def recorded_stop(trace: Trace, loop: TrainingLoop) -> Iterator[None]:
    """Write what ends the block as event `stopped`, and let it pass; a resumed run's trace no longer holds the row."""
    try:
        yield
    except Exception as error:
        with suppress(CotuneError, ValueError):  # what cannot be written any more must not hide the error itself
            trace.write("stopped", loop.step, error=type(error).__name__, reason=first_line(error))
        raise
