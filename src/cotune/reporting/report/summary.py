"""The first look at a run: a sentence, a row of numbers, and what its environment was."""

from __future__ import annotations

from collections.abc import Iterator

from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.blocks import Block, Listing, Missing, Section, Tile
from cotune.reporting.report.costs import expected_memory, peak_memory
from cotune.reporting.report.judged_by import baseline_scores, judged_by, main_score, number, spoken, with_unit
from cotune.reporting.report.record import RunRecord
from cotune.reporting.report.series import column

_GIB = 2**30
_NEWEST = 20  # steps


def status_line(record: RunRecord) -> str:
    """Return how far the run is, how long it took, and which seed and processes it has."""
    steps = f"{record.last_step:,}" + (f" of {record.wanted_steps:,}" if record.wanted_steps else "")
    seed = record.result.get("seed", record.start.get("seed"))
    told = [f"step {steps}", duration(record.seconds), *([] if seed is None else [f"seed {seed}"])]
    processes = record.result.get("processes", record.start.get("processes")) or 1
    return ", ".join([*told, *([f"{processes} processes"] if processes > 1 else [])])


def duration(seconds: float) -> str:
    """Return seconds as people say them: `48 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def tiles(record: RunRecord) -> list[Tile]:
    """Return the numbers to see first, each with what it is read against; those that are known."""
    return [*_learned(record), *_took(record)]


def _learned(record: RunRecord) -> Iterator[Tile]:
    main, blind = judged_by(record)[0], baseline_scores(record).get("question_only")
    if main_score(record) is not None:
        without = "" if number(blind, main) is None else f"{with_unit(blind, main)} without looking"
        yield Tile(f"{spoken(main)}, test", with_unit(record.result, main), without)
    losses = [value for _, value in column(record.steps, "loss")]
    if losses:
        last = losses[-_NEWEST:]
        yield Tile("training loss", f"{sum(last) / len(last):.3f}", f"{losses[0]:.3f} at the first step")
    held_out = column(record.rows.get("held_out", ()), "loss")
    if held_out:
        best = min(held_out, key=lambda point: point[1])
        yield Tile("held-out loss", f"{held_out[-1][1]:.3f}", f"best {best[1]:.3f} at step {best[0]:.0f}")
    kl = record.result.get("text_kl")
    if kl is not None:
        yield Tile("text: KL from base", f"{kl:.2g}", "the base model itself" if kl == 0 else "0 would be the base")


def _took(record: RunRecord) -> Iterator[Tile]:
    parts = record.start.get("components") or {}
    if parts:
        trained, total = (sum(column) for column in zip(*parts.values(), strict=True))
        yield Tile("trained values", f"{trained:,}", f"{trained / total:.2%} of the model")
    tokens, seconds = (sum(row.get(key, 0) for row in record.steps) for key in ("tokens", "step_seconds"))
    if tokens and seconds:
        yield Tile("tokens per second", f"{tokens / seconds:,.0f}", f"{tokens:,} tokens")
    peak, expected = peak_memory(record), expected_memory(record).get("expected")
    if peak:
        note = "" if expected is None else f"a step: {expected / _GIB:.2f} estimated"
        yield Tile("peak memory", f"{peak / _GIB:.2f} GiB", note)


def environment_section(record: RunRecord) -> Section:
    """Return the versions, the precision and device, and the resolved recipe."""
    versions = record.start.get("versions") or record.result.get("versions") or {}
    rows = [[name, str(version)] for name, version in versions.items()]
    if record.start.get("precision"):
        rows.append(["precision and device", str(record.start["precision"])])
    blocks: list[Block] = [Printed("Environment", ["what", "version"], rows)] if rows else []
    if not rows:
        blocks.append(Missing("Environment: the trace has no start event, and there is no result."))
    blocks.append(Listing("The resolved recipe", record.recipe) if record.recipe else Missing("The recipe."))
    return Section("Recipe", blocks)
