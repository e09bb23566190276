"""The training loop: one, for every recipe and any number of processes; resumable to the bit, honest about what learns.

Every process draws the same batches and learns from its share of each; gradients are added up once a step. The loss
is the mean over the tokens that carry loss in the whole batch, so that the run is the same, to rounding, however a
batch is cut into processes and micro-batches.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from torch import nn

from cotune.coordination.components import components
from cotune.coordination.meter import BaseNotUsedWarning
from cotune.coordination.predictions import Predictions
from cotune.data.batching import Batches
from cotune.data.collate import MediaLoaders
from cotune.data.template import Encoded
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.trace import Trace
from cotune.training.coordination import make_coordinator
from cotune.training.costs import Costs
from cotune.training.gradients import sum_gradients
from cotune.training.live import tuning_display
from cotune.training.model_passes import ModelPasses
from cotune.training.movement import CHECK_AFTER, Movement
from cotune.training.optimizer import clip, gradient_norms, make_optimizer, rates_in_force, schedule_factor
from cotune.training.out_of_memory import memory_advice
from cotune.training.precision import Precision
from cotune.training.processes import ALONE, Processes
from cotune.training.rank_state import start_equal
from cotune.training.shares import make_stream
from cotune.training.skipping import SkippedSteps, is_broken, to_blame
from cotune.training.snapshot_keeper import SnapshotKeeper, Stateful
from cotune.training.stopping import StopRequest, asked_to_stop
from cotune.training.task_scoring import TaskScoring
from cotune.training.validation import Evaluate

_LOSS_WINDOW = 20
PROBLEMS = ("steps skipped", "snapshots that could not be written")


class TrainingLoop:
    """Tunes a model on a stream of batches and records every step."""

    def __init__(
        self,
        recipe: Recipe,
        model: MultimodalLM,
        batches: Batches,
        loaders: MediaLoaders,
        run: RunFolder,
        console: Console,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe, self.model, self.batches, self.loaders = recipe, model, batches, loaders
        self.run_folder, self.console, self.processes = run, console, processes
        self.precision = Precision(recipe.training.precision, model.device)
        start_equal(model, recipe.seed, processes)
        self.components = components(model, connector=recipe.coordination.connector)
        self.optimizer = make_optimizer(self.components, recipe.training, recipe.coordination)
        self.coordinator = make_coordinator(recipe, model, self.components, self.optimizer)
        self.passes = ModelPasses(recipe, model, loaders, self.precision, self.coordinator, processes)
        self.stream = make_stream(recipe, batches, loaders, processes)
        self.movement = Movement(self.components, model)
        self.skipped = SkippedSteps(recipe.training.skipped_in_a_row)
        self.step = 0
        self.costs = Costs()
        self._losses: list[float] = []
        parts: dict[str, Stateful] = {
            "batches": self.stream,
            "coordinator": self.coordinator,
            "costs": self.costs,
            "precision": self.precision,
            "skipped": self.skipped,
            "movement": self.movement,
        }
        self.snapshots = SnapshotKeeper(recipe, model, self.optimizer, parts, run, processes, console.print)

    def resume(self) -> bool:
        """Go on from the newest whole snapshot; returns whether there was one."""
        step = self.snapshots.resume()
        if step is not None:
            self.step = step
        return step is not None

    def counts(self) -> Counter[str]:
        """Return what did not go as planned: steps that were skipped, snapshots that could not be written."""
        found = zip(PROBLEMS, (self.skipped.total, self.snapshots.failed), strict=True)
        return Counter({what: number for what, number in found if number})

    def run(self, trace: Trace, evaluate: Evaluate | None = None, tasks: TaskScoring | None = None) -> None:
        """Train until the recipe's last step, watched by `evaluate` and by the scores on `tasks`.

        Raises:
            InterruptedRunError: after Ctrl-C or SIGTERM; the step under way is ended and a snapshot kept.
            DivergedError: when too many steps in a row had to be skipped.
            OutOfMemoryError: when a step does not fit the memory.
        """
        steps = self.recipe.training.steps
        self.model.train()
        self.movement.begin()
        with tuning_display(self.console, steps, trace, done=self.step) as advance, asked_to_stop() as stop:
            self._score_tasks(trace, tasks, stop)  # the snapshot gone on from may have been kept just before
            while self.step < steps:
                row = self._one_step()
                trace.write(row.pop("event", "step"), self.step, **row)
                self.skipped.check(self.step, str(self.run_folder.snapshots))
                advance(1, f"loss {self._recent_loss():.3f}")
                if not self.movement.over and self.step - self.skipped.total >= min(CHECK_AFTER, steps):
                    self._check_moved(trace)
                if self.step < steps:
                    self._between_steps(trace, evaluate, stop)
                    self._score_tasks(trace, tasks, stop)
        # A run that is stopped while it is scored need not be tuned again.
        self.snapshots.keep(self.step, trace)

    def try_steps(self, count: int) -> list[float]:
        """Take steps that are recorded nowhere and return the seconds of each; nothing can go on from here."""
        self.model.train()
        return [self._one_step()["step_seconds"] for _ in range(count)]

    def _between_steps(self, trace: Trace, evaluate: Evaluate | None, stop: StopRequest) -> None:
        """Leave when any process was asked to, and evaluate and keep a snapshot when it is time."""
        settings = self.recipe.training
        if self.processes.any(stop.is_set()):
            raise stop.error(self.snapshots.keep_to_stop(self.step, trace))
        if evaluate is not None and self.step % settings.evaluate_every == 0:
            evaluate(trace, self.step)
        if self.step % settings.snapshot_every == 0:
            self.snapshots.keep(self.step, trace)

    def _score_tasks(self, trace: Trace, tasks: TaskScoring | None, stop: StopRequest) -> None:
        """Score the tasks that are due, with a snapshot before, so that being stopped in there loses nothing."""
        if tasks is not None and tasks.due(self.step):
            self.snapshots.keep(self.step, trace)
            tasks.between(trace, self.step, stop)

    def _one_step(self) -> dict[str, Any]:
        """Take one optimiser step and return what the trace keeps of it."""
        started = time.perf_counter()
        step = self.step + 1
        encoded = self.stream.take(self.recipe.training.steps - self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with memory_advice(self.recipe, encoded, self.processes):
            value, padding = self._added_up(*self.passes.backward(encoded))
        row = self._overflow(value) or self._skip(encoded, value) or self._update(encoded, value)
        self.step = step
        if math.isfinite(value):
            self._losses = [*self._losses[-_LOSS_WINDOW + 1 :], value]
        return self.costs.add(encoded, padding, time.perf_counter() - started) | {"loss": value} | row

    def _added_up(self, value: float, padding: int) -> tuple[float, int]:
        """Add up the gradients, the loss and the padding of all processes; unscale the gradients."""
        loss, padded = sum_gradients(self._learning, (value, padding), self.processes)
        self.precision.unscale(self.optimizer)
        return loss, round(padded)

    @property
    def _learning(self) -> list[nn.Parameter]:
        """Everything trainable, in the same order on every process."""
        return [parameter for part in self.components.values() for parameter in part.trainable]

    def _overflow(self, loss: float) -> dict[str, Any] | None:
        """Leave the step out where gradients ran over under fp16, count it, and return its row; else None."""
        if not math.isfinite(loss) or not self.precision.ran_over(self._learning):
            return None
        self.precision.step(self.optimizer)  # takes no step, and lowers the scale
        self.coordinator.leave_out()
        self.costs.overflows += 1
        return {"overflow": True}

    def _update(self, encoded: Sequence[Encoded], value: float) -> dict[str, Any]:
        """Step the optimiser at the coordinated rates and return what the trace keeps of it."""
        if not self.movement.over:
            self.movement.see_gradients()
        rates = self.coordinator.before_step(schedule_factor(self.step + 1, self.recipe.training))
        settings = self.recipe.training
        norms = clip(self.components, settings.clip_norm, each=settings.clip == "component")
        in_force = rates_in_force(self.optimizer, rates)
        bases = self.passes.bases(encoded)
        self.precision.step(self.optimizer)
        balance = self._measure(encoded, bases, value)
        return {
            "rates": in_force,
            "gradient_norms": norms,
            **self.coordinator.row,
            **({} if balance is None else {"balance": balance}),
        }

    def _skip(self, encoded: Sequence[Encoded], loss: float) -> dict[str, Any] | None:
        """Leave the step out where loss or gradient is no number, count it, and return its row; else None.

        All processes do the same: loss and gradients are their sums, equal everywhere.
        """
        norms = gradient_norms(self.components)
        if not is_broken(loss, norms):
            self.skipped.take()
            return None
        self.precision.leave_out(self.optimizer)
        self.coordinator.leave_out()
        one_process = self.processes.size == 1
        row = self.skipped.skip(loss, norms, to_blame(encoded, self.passes.loss_of if one_process else None))
        self.console.print(
            f"[yellow]Step {self.step + 1} is skipped: the loss is {loss:g}, or a gradient is no number "
            f"({self.skipped.in_a_row} in a row; {self.skipped.limit} end the run)[/]"
        )
        return row | {"event": "skipped"}

    def _measure(
        self, encoded: Sequence[Encoded], bases: list[Predictions] | None, loss: float
    ) -> dict[str, Any] | None:
        """Let the coordinator measure the step on a part of its batch, when it is time to.

        `bases` are what was predicted for that part before the step, where it is known.
        """
        if not self.coordinator.due:
            return self.coordinator.after_step(loss=loss)
        with self.precision.autocast(), warnings.catch_warnings():
            # Where rounding sets them apart they are not used, for one forward more: nothing anyone can mend.
            warnings.simplefilter("ignore", BaseNotUsedWarning)
            probes = self.passes.probes(encoded)
            return self.coordinator.after_step(self.passes.predict, probes, bases=bases, loss=loss)

    def _recent_loss(self) -> float:
        return sum(self._losses) / len(self._losses) if self._losses else float("nan")

    def _check_moved(self, trace: Trace) -> None:
        """Say so when a component that should learn, or a tensor of it, has not moved at all."""
        moved = self.movement.end()
        trace.write("moved", self.step, components=moved.components, still=moved.still)
        for sentence in moved.sentences(self.step):
            self.console.print(f"[red]{sentence}[/]")
