"""Scoring a recipe's further tasks: after some steps, without a trace left in training, and at the end of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import torch

from cotune.evaluation.answer_settings import adapter_digest, answer_settings
from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.score_tables import shown_score
from cotune.evaluation.tasks import TASKS, option_prefix
from cotune.model.checkpoint import saved_tensors
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import table
from cotune.run_folder import RunFolder
from cotune.trace import Trace, read_trace
from cotune.training.benchmarks import ReadyBenchmark
from cotune.training.scored_folder import about_answers, begin_answers, finish_answers
from cotune.training.stopping import StopRequest
from cotune.training.undisturbed import undisturbed

EVENT = "task"
_COLUMNS = ("task", "main score", "value", "questions", "seconds")
_SHOWN = 200  # answers on the page to look at

Finish = Callable[[AnswersFolder, Sequence[Prediction], dict[str, Any]], object]


class TaskScoring:
    """The further tasks of one run; what was answered is gone on with when the run is."""

    def __init__(self, run: RunFolder, model: MultimodalLM, benchmarks: Sequence[ReadyBenchmark]) -> None:
        self.run, self.model, self.benchmarks = run, model, benchmarks

    def due(self, step: int) -> bool:
        """Return whether any task is scored after this step."""
        return bool(self._due(step))

    def between(self, trace: Trace, step: int, stop: StopRequest) -> None:
        """Score the tasks that are due after a step; training goes on as if nothing had been.

        Answers lie in `evaluation/NAME/step-STEP` of the run. The snapshot of this step has to be kept before: a run
        that is stopped in here goes on from it, and with the answers that are there.

        Raises:
            InterruptedRunError: after Ctrl-C or SIGTERM, at once.
        """
        told = f"Stopped while it was scored after step {step}; what was answered is kept"
        go_on = f"Go on with: cotune train {self.run.recipe} --resume"
        digest = _digest(self.model)
        with undisturbed(self.model), stop.at_once(f"{told}. {go_on}"):
            rows = []
            for benchmark in self._due(step):
                folder = AnswersFolder(self._folder(benchmark).path / f"step-{step}")
                content = self._scored(benchmark, folder, digest, step, AnswersFolder.finish)
                rows.append(_record(trace, step, benchmark, content))
        self._print(f"Tasks after step {step}", rows)

    def at_end(self, trace: Trace, step: int) -> dict[str, Any]:
        """Score every task with the finished model, print its tables, and return what `result.json` says of them."""
        result, rows = {}, []
        for benchmark in self.benchmarks:
            folder = self._folder(benchmark)
            finish = partial(finish_answers, shown=_SHOWN, console=benchmark.prepared.console)
            content = self._scored(benchmark, folder, adapter_digest(self.run), step, finish)
            rows.append(_record(trace, step, benchmark, content))
            kept = ("data", "questions", "without_words", "overlap", "seconds", "scores")
            about = {"task": benchmark.entry.task, "main_score": TASKS[benchmark.entry.task].main}
            result[benchmark.entry.label] = about | {key: content[key] for key in kept} | {"answers": str(folder.path)}
        self._print(f"Tasks after the last step, {step}", rows)
        self._print_course()
        return result

    def _scored(
        self, benchmark: ReadyBenchmark, folder: AnswersFolder, adapter: str, step: int, finish: Finish
    ) -> dict[str, Any]:
        """Answer and score one task into a folder; returns what its `evaluation.json` holds."""
        prepared, entry, started = benchmark.prepared, benchmark.entry, time.monotonic()
        settings = answer_settings(prepared.recipe, adapter, options=entry.options)
        samples = prepared.samples.test
        prepared.processes.on_main(lambda: begin_answers(folder, settings, samples, prepared.console, "replace"))
        scores, predictions = prepared.evaluate(
            samples,
            f"{entry.label} after step {step}",
            entry.batch_size,
            folder=folder,
            option_prefix=option_prefix(entry.task) if entry.options else None,
        )
        about = about_answers(prepared, predictions, benchmark.overlap, time.monotonic() - started)
        content = {"run": str(self.run.path), "step": step, "settings": settings, **about, "scores": scores}
        prepared.processes.on_main(lambda: finish(folder, predictions, content))
        return content

    def _due(self, step: int) -> list[ReadyBenchmark]:
        """Return the benchmarks that are scored after a step; none after the last one, which `at_end` follows."""
        if not self.benchmarks:
            return []
        recipe = self.benchmarks[0].prepared.recipe
        names = {entry.label for entry in recipe.evaluation.due(step) if step < recipe.training.steps}
        return [benchmark for benchmark in self.benchmarks if benchmark.entry.label in names]

    def _folder(self, benchmark: ReadyBenchmark) -> AnswersFolder:
        return AnswersFolder(self.run.path / "evaluation" / benchmark.entry.label)

    def _print(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        if rows:
            self.benchmarks[0].prepared.console.print(table(title, _COLUMNS, rows))

    def _print_course(self) -> None:
        """Print the main score of every task after the steps it was scored at, where there are several."""
        found: dict[int, dict[str, str]] = {}
        for row in read_trace(self.run.trace, EVENT) if self.run.trace.exists() else ():
            found.setdefault(row["step"], {})[row["name"]] = shown_score(row["main"], row["scores"].get(row["main"]))
        names = [benchmark.entry.label for benchmark in self.benchmarks]
        if len(found) > 1:
            rows = [[str(step), *(cells.get(name, "") for name in names)] for step, cells in sorted(found.items())]
            self.benchmarks[0].prepared.console.print(table("Main scores by step", ["step", *names], rows))


def _record(trace: Trace, step: int, benchmark: ReadyBenchmark, content: dict[str, Any]) -> list[str]:
    """Write an event of a task's scores; returns its row for the screen."""
    entry, scores, main = benchmark.entry, content["scores"], TASKS[benchmark.entry.task].main
    about = {"task": entry.task, "main": main, "questions": content["questions"]}
    trace.write(EVENT, step, name=entry.label, **about, scores=scores, scoring_seconds=content["seconds"])
    value = shown_score(main, scores.get(main))
    return [entry.label, main, value, f"{content['questions']:,}", f"{content['seconds']:.0f}"]


def _digest(model: MultimodalLM) -> str:
    """Return a digest of everything that is tuned, as it is now."""
    digest = sha256()
    for name, tensor in sorted(saved_tensors(model).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
