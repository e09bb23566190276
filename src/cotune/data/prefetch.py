"""Batches drawn a little ahead of their use, so that threads load their media while the model computes.

Only the loading happens beside the steps. Batches are drawn in their order and one at a time, and the state handed out
is that behind the batch in use, not behind those drawn ahead: a run is the same bits with any number of workers, also
when it is stopped and resumed. Threads are enough, since decoding and resizing pictures leaves Python's lock free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from cotune.compute_threads import threads_without_helpers
from cotune.data.template import Encoded
from cotune.messages import MEDIA_OF_PART

# More would only hold more memory: where loading two batches takes longer than a step, every step waits in any case.
_AHEAD = 2

Share = Callable[[Sequence[Encoded]], Sequence[Encoded]]


class Stream(Protocol):
    """An endless stream of batches that can be resumed."""

    def __next__(self) -> list[Encoded]: ...

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on with the very next batch."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


@runtime_checkable
class Preloading(Protocol):
    """What loads media and can begin before it is asked."""

    def begin(self, paths: Sequence[Path], pool: Executor) -> None:
        """Begin to load files in the threads of a pool; what was begun for other files is dropped."""


class _Drawn(NamedTuple):
    """A batch, the state of the stream behind it, and the files of each kind it needs."""

    batch: list[Encoded]
    state: dict[str, Any]
    files: dict[str, list[Path]]


class Prefetch:
    """A stream of batches whose media are loaded by `workers` threads while earlier batches are in use.

    `loaders` are those of the batches; only what is `Preloading` among them is told. `own` gives the samples of a batch
    that this process will load. With no workers nothing is drawn ahead.
    """

    def __init__(self, stream: Stream, loaders: Mapping[str, object], workers: int, own: Share) -> None:
        self.stream, self.workers, self.own = stream, workers, own
        self._loaders = {kind: loader for kind, loader in loaders.items() if isinstance(loader, Preloading)}
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[_Drawn] = deque()
        self._state: dict[str, Any] | None = None

    def take(self, left: int) -> list[Encoded]:
        """Return the next batch; `left` says how many will be taken at most, this one included.

        No more are drawn than that: what a run counts of its draws does not depend on the workers.
        """
        ahead = min(_AHEAD, left - 1) if self.workers and self._loaders else 0
        while not self._waiting or len(self._waiting) <= ahead:
            batch = next(self.stream)
            self._waiting.append(_Drawn(batch, self.stream.state_dict(), self._files(batch)))
        if self.workers:
            self._begin()
        batch, self._state, _ = self._waiting.popleft()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on with the very next batch."""
        return self.stream.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; what was drawn ahead is forgotten."""
        self._waiting.clear()
        self._state = None
        self.stream.load_state_dict(state)

    def _files(self, batch: Sequence[Encoded]) -> dict[str, list[Path]]:
        """Return the files this process needs for a batch, by kind."""
        found: dict[str, list[Path]] = {kind: [] for kind in self._loaders}
        for part in (part for encoded in self.own(batch) for part in encoded.sample.media) if found else ():
            if (kind := MEDIA_OF_PART[type(part)]) in found:
                found[kind].append(part.path)
        return found

    def _begin(self) -> None:
        """Tell the loaders what is needed for the batches drawn, that of the one about to be used first."""
        for kind, loader in self._loaders.items():
            paths = list(dict.fromkeys(path for drawn in self._waiting for path in drawn.files[kind]))
            # Threads start when they are first needed: with all features kept there never are any.
            self._pool = self._pool or threads_without_helpers(self.workers, "cotune-media")
            loader.begin(paths, self._pool)
