"""Pictures of a run: its curves from the trace, and a gallery of what it answered."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotune.evaluation.tasks import Prediction, read_predictions
from cotune.reporting.balance_curves import draw_balance, draw_multipliers
from cotune.reporting.figure import make_figure, smoothed
from cotune.reporting.task_curves import draw_tasks
from cotune.run_folder import RunFolder
from cotune.trace import Row, read_trace

_COLORS = {"vision": "#c44e52", "connector": "#dd8452", "llm": "#4c72b0"}
_SMOOTHING = 0.9


def draw_run(run: RunFolder) -> list[Path]:
    """Draw a finished run's curves and, where it answered pictures, a gallery; return the files."""
    drawn = [draw_curves(run.trace, run.path / "curves.png")]
    if (tasks := draw_tasks(run.trace, run.path / "tasks.png")) is not None:
        drawn.append(tasks)
    predictions = run.path / "predictions.jsonl"
    if predictions.exists():
        shown = choose(read_predictions(predictions), count=8)
        if shown:
            drawn.append(draw_gallery(shown, run.path / "gallery.png"))
    return drawn


def draw_curves(trace: Path, file: Path) -> Path:
    """Draw loss, validation scores, rates and gradient norms by component over the steps.

    A run that has measured its balance gets two panels more: log kappa, and the multipliers the rule chose.
    """
    steps = list(read_trace(trace, "step"))
    measured = [row for row in steps if "balance" in row]
    figure, axes = make_figure(3, 2, (11, 10)) if measured else make_figure(2, 2, (11, 7))
    held_out = list(read_trace(trace, "held_out"))
    _draw_loss(axes[0][0], steps, held_out)
    _draw_validation(axes[0][1], list(read_trace(trace, "validation")), list(read_trace(trace, "test")))
    _draw_by_component(axes[1][0], steps, "rates", "learning rate")
    _draw_by_component(axes[1][1], steps, "gradient_norms", "gradient norm (before clipping)")
    axes[1][1].set_yscale("log")
    if measured:
        draw_balance(axes[2][0], measured)
        draw_multipliers(axes[2][1], measured, _COLORS)
    for axis in (axis for row in axes for axis in row):
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    return file


def choose(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return predictions to look at, spread over the test set, one per picture, wrong ones at their true share."""
    with_picture = [item for item in predictions if item.media]
    wrong = [item for item in with_picture if not item.correct]
    share = round(count * len(wrong) / len(with_picture)) if with_picture else 0
    right = [item for item in with_picture if item.correct]
    return [*_spread(right, count - share), *_spread(wrong, share)]


def draw_gallery(predictions: Sequence[Prediction], file: Path) -> Path:
    """Draw pictures with question, answer and, where it differs, the reference."""
    columns = min(4, len(predictions))
    rows = -(-len(predictions) // columns)
    figure, axes = make_figure(rows, columns, (2.6 * columns, 3.2 * rows))
    panels = [axis for row in axes for axis in row]
    for axis, item in zip(panels, predictions, strict=False):
        _draw_answer(axis, item)
    for axis in panels[len(predictions) :]:
        axis.axis("off")
    figure.savefig(file, dpi=110)
    return file


def _draw_answer(axis: Any, item: Prediction) -> None:
    from PIL import Image

    with Image.open(item.media[0]) as picture:
        axis.imshow(picture.convert("RGB"))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    said = _printable(item.prediction)
    answer = said if item.correct else f"{said}  (true: {_printable(item.reference)})"
    axis.set_title(textwrap.fill(_printable(item.question), 26), fontsize=10)
    axis.set_xlabel(answer, fontsize=12, weight="bold", color="#2a7f3f" if item.correct else "#c44e52")


def _printable(text: str, longest: int = 60) -> str:
    """Return text a figure can show: no control characters, no formulas, not too long."""
    shown = "".join(character if character.isprintable() else " " for character in text).replace("$", r"\$")
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def _draw_loss(axis: Any, steps: Sequence[Row], held_out: Sequence[Row]) -> None:
    values = [row["loss"] for row in steps]
    smooth = smoothed(values, _SMOOTHING)
    numbers = [row["step"] for row in steps]
    axis.plot(numbers, values, alpha=0.25, color="#4c72b0")
    axis.plot(numbers, smooth, color="#4c72b0", label="smoothed")
    if held_out:
        losses = [row["loss"] for row in held_out]
        axis.plot([row["step"] for row in held_out], losses, "o-", markersize=4, color="#c44e52", label="held out")
    axis.set_title("loss (nats per answer token)")
    axis.legend()


def _draw_validation(axis: Any, rows: Sequence[Row], test: Sequence[Row]) -> None:
    names = list(rows[0]["scores"]) if rows else []
    for index, name in enumerate(names):
        color = f"C{index}"
        axis.plot([r["step"] for r in rows], [r["scores"][name] for r in rows], "o-", label=name, color=color)
        for row in test:
            if row["scores"].get(name) is not None:
                axis.plot([row["step"]], [row["scores"][name]], "*", color=color, markersize=12)
    axis.set_title("validation scores (stars: test set)")
    if names:
        axis.legend(fontsize=8)


def _draw_by_component(axis: Any, steps: Sequence[Row], key: str, title: str) -> None:
    for name in steps[0][key] if steps else ():
        values = [row[key][name] for row in steps]
        axis.plot([row["step"] for row in steps], values, label=name, color=_COLORS.get(name))
    axis.set_title(title)
    if steps:
        axis.legend()


def _spread(items: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return up to `count` items in a fixed shuffled order, no two about one picture."""
    shuffled = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    distinct: dict[str, Prediction] = {}
    for item in shuffled:
        distinct.setdefault(item.media[0], item)
    return list(distinct.values())[: max(count, 0)]
