"""Snapshots of a training loop: kept between steps, gone on from, counted where one cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch.optim import Optimizer

from cotune.errors import CheckpointError, OtherRankError, RunFolderError
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.trace import Trace
from cotune.training.processes import Processes
from cotune.training.rank_state import go_on_from, random_states
from cotune.training.snapshot import last_good, load_snapshot, newest_snapshot, pass_over_damaged, save_snapshot

_NOT_WRITTEN = (CheckpointError, RunFolderError, OtherRankError)


class Stateful(Protocol):
    """What has a state to be kept."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state that `state_dict` gave."""


class SnapshotKeeper:
    """Keeps the state of a loop in its run's folder, and goes on from the newest whole one.

    `parts` are the loop's, by the names they have in a snapshot; model, optimizer and random numbers are in every one.
    `trace_size` is how much of the trace the snapshot gone on from knows of, `failed` how many could not be written.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MultimodalLM,
        optimizer: Optimizer,
        parts: Mapping[str, Stateful],
        run: RunFolder,
        processes: Processes,
        say: Callable[[str], None],
    ) -> None:
        self.recipe, self.model, self.optimizer, self.parts = recipe, model, optimizer, parts
        self.run_folder, self.processes, self.say = run, processes, say
        self.trace_size = 0
        self.failed = 0
        self._kept = -1

    def resume(self) -> int | None:
        """Put everything as the newest whole snapshot has it; returns its step, or None where there is none."""
        folder = self.run_folder.snapshots
        self.processes.on_main(lambda: pass_over_damaged(folder, self.say))
        snapshot = newest_snapshot(folder)
        if snapshot is None:
            return None
        state = load_snapshot(snapshot, self.model, self.optimizer)
        step: int = state["step"]
        self._kept, self.trace_size, self.failed = step, state["trace_size"], state["snapshots_failed"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if not go_on_from(state["random_states"], self.recipe.seed, step, self.processes):
            self.say("Resumed on another number of processes: dropout goes on with new random numbers")
        return step

    def keep(self, step: int, trace: Trace) -> None:
        """Write a snapshot; when that fails the run goes on with the last good one, counted and said."""
        try:
            self._write(step, trace)
        except _NOT_WRITTEN as error:
            self.failed += 1
            trace.write("snapshot failed", step, reason=str(error))
            self.say(f"[yellow]{error}. Tuning goes on; {last_good(self.run_folder.snapshots)}[/]")

    def keep_to_stop(self, step: int, trace: Trace) -> str:
        """Write a snapshot and return what to tell the user who stopped the run."""
        go_on = f"Go on with: cotune train {self.run_folder.recipe} --resume"
        stopped = f"Stopped after step {step} of {self.recipe.training.steps}"
        try:
            self._write(step, trace)
        except _NOT_WRITTEN as error:
            return f"{stopped}; {error}; {last_good(self.run_folder.snapshots)}. {go_on}"
        return f"{stopped}; everything is kept in {self.run_folder.snapshots}. {go_on}"

    def _write(self, step: int, trace: Trace) -> None:
        if self._kept == step:
            return
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"random_states": random_states(self.processes), "snapshots_failed": self.failed}
        folder, keep = self.run_folder.snapshots, self.recipe.training.snapshots_kept

        def save() -> None:
            with_trace = state | {"trace_size": trace.keep()}
            save_snapshot(folder, self.model, self.optimizer, step, with_trace, keep=keep)

        self.processes.on_main(save)
        self._kept = step
