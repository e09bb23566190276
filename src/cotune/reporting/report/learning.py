"""The section on what a run learned: its loss, and its scores beside the baselines."""

from __future__ import annotations

from typing import Any

from cotune.evaluation.score_tables import Printed, share_title
from cotune.evaluation.tasks import TASKS
from cotune.reporting.report.blocks import Block, Figure, Missing, Section
from cotune.reporting.report.judged_by import baseline_scores, judged_by, main_score, number, shown, spoken
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.series import centred, column, thinned
from cotune.reporting.report.svg import COLORS, SERIES, label


def learning_section(record: RunRecord) -> Section:
    """Return the loss over the steps, the validation scores, and the test scores beside the baselines."""
    blocks: list[Block] = [_loss(record), _scores(record)]
    return Section("Learning", [*blocks, *_tables(record), *_benchmarks(record)])


def _loss(record: RunRecord) -> Block:
    points = column(record.steps, "loss")
    if not points:
        return Missing("The loss: the trace holds no step with a finite one.")
    held_out = column(record.rows.get("held_out", ()), "loss")
    skipped = [row["step"] for row in record.rows.get("skipped", ())]

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        buckets = thinned(points)
        steps = [bucket.step for bucket in buckets]
        lows, highs = [bucket.low for bucket in buckets], [bucket.high for bucket in buckets]
        means = [bucket.mean for bucket in buckets]
        if any(low < high for low, high in zip(lows, highs, strict=True)):
            axis.fill_between(steps, lows, highs, color=COLORS["one"], alpha=0.16, linewidth=0)
        else:
            axis.plot(steps, means, color=COLORS["one"], alpha=0.3, linewidth=1.0)
        axis.plot(steps, centred(means), color=COLORS["one"], label="training")
        if held_out:
            axis.plot(*zip(*held_out, strict=True), "o-", color=COLORS["two"], markersize=3.5, label="held out")
        if skipped:
            axis.plot(skipped, [0.02] * len(skipped), "|", color=COLORS["bad"], transform=axis.get_xaxis_transform())
        axis.set_xlabel("step")
        axis.set_ylabel("nats per answer token")
        canvas.legend(loc="outside upper left", ncols=2)

    caption = "Mean over the tokens of the answers. Line: mean of neighbouring steps. Pale: single steps"
    caption += " (their range, where several share a pixel)." if len(points) > len(thinned(points)) else "."
    caption += f" Red ticks: the {len(skipped)} skipped steps." if skipped else ""
    return Figure("loss", "Loss", caption, draw)


def _scores(record: RunRecord) -> Block:
    rows, test = record.rows.get("validation", ()), record.newest("test")
    names = list(dict.fromkeys(name for row in rows for name in row.get("scores", {})))[: len(SERIES)]
    series = {name: column(rows, "scores", name) for name in names}
    main = judged_by(record)[0]
    blind = number(baseline_scores(record).get("question_only"), main)
    if not any(series.values()):
        reason = "this run was watched by its held-out loss" if record.rows.get("held_out") else "none was taken yet"
        return Missing(f"Validation scores over the steps: {reason} (training.evaluate_every).")

    def draw(canvas: Any) -> None:
        axis = canvas.subplots()
        for color, (name, points) in zip(SERIES, series.items(), strict=False):
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=color, markersize=3.5, label=label(name))
            final = column([test], "scores", name) if test else []
            axis.plot(*zip(*final, strict=True), "*", color=color, markersize=9) if final else None
        if blind is not None and main in series:
            axis.axhline(blind, color=SERIES[0], linewidth=1.0, linestyle=(0, (4, 3)))
        axis.set_xlabel("step")
        if all(0.0 <= value <= 1.0 for points in series.values() for _, value in points):
            axis.set_ylim(-0.03, 1.03)
        canvas.legend(loc="outside upper left", ncols=2)

    caption = "On held-out samples while tuning." + (" Stars: the test set, scored once at the end." if test else "")
    caption += " Dashed: what is reached without looking." if blind is not None and main in series else ""
    return Figure("scores", "Validation scores", caption, draw, (4.4, 3.0))


def _tables(record: RunRecord) -> list[Block]:
    """Return the test scores, those of the baselines beside them where a run has some."""
    names = judged_by(record)
    if main_score(record) is None:
        test = record.newest("test").get("scores") or {}
        rows = [[share_title(name), shown(test, name)] for name in test]
        if rows:
            return [Printed("Test scores", ["score", "value"], rows)]
        return [Missing("Test scores: the run has not been scored, or its recipe names no test set.")]
    baselines = baseline_scores(record)
    rows = [["this run", *(shown(record.result, name) for name in names)]]
    for name, scores in baselines.items():
        if scores is not None:
            rows.append([spoken(name), *(shown(scores, key) for key in names)])
    tables: list[Block] = [Printed("The test set", ["", *(spoken(share_title(name)) for name in names)], rows)]
    left = ", ".join(spoken(name) for name, scores in baselines.items() if scores is None)
    if left:
        tables.append(Missing(f"Baselines that were not trained: {left} (cotune quickstart --full trains them)."))
    return tables


def _benchmarks(record: RunRecord) -> list[Block]:
    """Return the main scores of every benchmark that was answered: in the run itself, or by `cotune evaluate` later."""
    rows = []
    for name, content in record.benchmarks.items():
        scores, settings = content.get("scores") or {}, content.get("settings") or {}
        known = TASKS.get(str(settings.get("task")))
        main = next(iter(scores), "") if known is None else known.main
        rows.append([name, spoken(share_title(main)), shown(scores, main), str(content.get("questions", "-"))])
    return [Printed("Benchmarks", ["benchmark", "main score", "value", "questions"], rows)] if rows else []
