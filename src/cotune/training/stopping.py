"""Asked to stop: by Ctrl-C, or by SIGTERM as batch systems and clouds do before they take the machine away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

from cotune.errors import STOPPED, TERMINATED, CotuneError


class InterruptedRunError(CotuneError):
    """The user stopped the run; its snapshot is kept."""

    exit_code = STOPPED


class TerminatedRunError(InterruptedRunError):
    """The system stopped the run by SIGTERM; its snapshot is kept."""

    exit_code = TERMINATED


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def take(self, number: int) -> None:
        """Note a signal."""
        self._signal = number

    def is_set(self) -> bool:
        """Return whether this process was asked to stop."""
        return self._signal is not None

    def error(self, text: str) -> InterruptedRunError:
        """Return the error that ends the run; another process's SIGTERM counts as one's own."""
        return InterruptedRunError(text) if self._signal == signal.SIGINT else TerminatedRunError(text)

    @contextmanager
    def at_once(self, text: str) -> Iterator[None]:
        """End the block as soon as it is asked to stop, not after a step; nothing may be cut in half inside of it.

        Raises:
            InterruptedRunError: saying the text.
        """
        if self.is_set():
            raise self.error(text)
        if current_thread() is not main_thread():
            yield
            return

        def leave(number: int, frame: object) -> None:
            self.take(number)
            raise self.error(text)

        before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def asked_to_stop() -> Iterator[StopRequest]:
    """Yield what the first Ctrl-C or SIGTERM sets; a second Ctrl-C stops at once.

    A step is thus never cut in half: a snapshot of a half-updated model would not resume to the same run.
    """
    stop = StopRequest()
    if current_thread() is not main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        stop.take(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
