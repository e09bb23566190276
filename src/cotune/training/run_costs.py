"""What runs cost, as the LaVIN paper tables it: parameters, storage, memory, hours, operations, tokens a second.

Measured by the run itself (`result.json` and its trace), but for the operations: those are counted on the recipe's
models without weights, for samples as long as the run's were on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cotune.errors import CotuneError, first_line
from cotune.evaluation.paper_numbers import COSTS, paper_rows, sources
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder, open_run, short_names
from cotune.trace import read_trace

COLUMNS = ("run", "trained", "share", "MB", "GiB", "hours", "PFLOP", "tokens/s")


@dataclass(frozen=True)
class RunCosts:
    """What one run cost; None where the run does not say.

    `storage` is the size of the files in `adapter/` in bytes, `memory` the peak of one process in bytes, `seconds` the
    time of the steps (`wall_seconds` also holds preparing and scoring), `operations` floating-point operations of all
    steps, two per multiply-add, or None for the reason in `not_counted`.
    """

    run: str
    trainable: int
    total: int | None
    storage: int
    memory: int
    processes: int
    seconds: float
    wall_seconds: float | None
    operations: int | None
    tokens_per_second: float
    not_counted: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)


def costs_of(folders: Sequence[Path]) -> list[RunCosts]:
    """Return what finished runs cost, under short names; raises RunFolderError for a folder that holds none."""
    return [run_costs(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]


def run_costs(folder: Path, name: str) -> RunCosts:
    """Return what a finished run cost.

    Raises:
        RunFolderError: when the folder holds no finished run.
    """
    run, recipe = open_run(folder)
    result = run.read_result()
    start = next(read_trace(run.trace, "start"), {}) if run.trace.exists() else {}
    operations, problem = _operations(run, recipe)
    return RunCosts(
        run=name,
        trainable=result["trainable_parameters"],
        total=sum(total for _, total in start["components"].values()) if start else None,
        storage=sum(file.stat().st_size for file in run.adapter.glob("*") if file.is_file()),
        memory=result["peak_memory_bytes"],
        processes=result.get("processes", 1),
        seconds=result["seconds"],
        wall_seconds=result.get("wall_seconds"),
        operations=operations,
        tokens_per_second=result["tokens_per_second"],
        not_counted=problem,
    )


def _operations(run: RunFolder, recipe: Recipe) -> tuple[int | None, str | None]:
    """Return the operations of all steps, counted at the run's mean sample length, or why they are not known."""
    steps = list(read_trace(run.trace, "step")) if run.trace.exists() else []
    if not steps:
        return None, "its trace holds no steps"
    from cotune.training.estimate import estimate  # brings torch, which the table alone does without

    samples = len(steps) * recipe.training.batch_size
    tokens = round(sum(row["tokens"] for row in steps) / samples)
    answer = max(1, round(sum(row["loss_tokens"] for row in steps) / samples))
    try:
        found = estimate(recipe, tokens=max(tokens, 1), answer_tokens=answer)
    except (CotuneError, OSError) as error:
        return None, first_line(error)
    if found.operations is None:
        return None, found.not_counted
    return found.operations.step * len(steps), None


def cost_rows(costs: Sequence[RunCosts]) -> list[list[str]]:
    """Return the table: a row for every run, then the papers' rows, marked as theirs."""
    rows = [
        [
            found.run,
            _millions(found.trainable),
            "-" if not found.total else f"{found.trainable / found.total:.3%}",
            f"{found.storage / 1e6:.1f}",
            f"{found.memory / 2**30:.1f}",
            f"{found.seconds / 3600:.2f}",
            "-" if found.operations is None else f"{found.operations / 1e15:.3g}",
            f"{found.tokens_per_second:,.0f}",
        ]
        for found in costs
    ]
    for row in paper_rows(COSTS):
        trained = row.scores.get("trainable")
        cells = [f"{row.scores[key]:g}" if key in row.scores else "" for key in ("storage_mb", "memory_gib", "hours")]
        rows.append([row.label, "" if trained is None else _millions(trained), "", *cells, "", ""])
    return rows


def cost_notes(costs: Sequence[RunCosts]) -> list[str]:
    """Return what the table rests on."""
    notes = [
        "MB: the files of adapter/. GiB: peak memory of one process, on the GPU where there is one. Hours: of the "
        "steps alone. PFLOP: 10^15 operations, counted on the recipe's models for samples of the run's mean length, "
        "two per multiply-add, features that are computed once and kept not among them."
    ]
    notes += [f"{found.run}: operations are not counted: {found.not_counted}" for found in costs if found.not_counted]
    notes += [f"{found.run}: tuned by {found.processes} processes" for found in costs if found.processes > 1]
    return notes + [f"paper: {line}; other models and machines" for line in sources(paper_rows(COSTS))]


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:.3g} M" if parameters < 1e9 else f"{parameters / 1e9:.3g} G"
