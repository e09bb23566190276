"""The section of samples: some questions with their answers, and some of those that were answered wrongly."""

from __future__ import annotations

from cotune.reporting.answer_page import choose_some
from cotune.reporting.report.blocks import Block, Missing, Samples, Section
from cotune.reporting.report.record import RunRecord

_DRAWN, _WRONG = 8, 4


def samples_section(record: RunRecord) -> Section:
    """Return some answers to the test set, drawn by their ids alone, and some wrong ones that are not among them."""
    total = len(record.predictions)
    if not total:
        return Section("Samples", [Missing("Answers: predictions.jsonl is written when a test set has been scored.")])
    drawn = choose_some(record.predictions, _DRAWN)
    seen = {item.id for item in drawn}
    wrong = [item for item in record.predictions if not item.correct]
    others = choose_some([item for item in wrong if item.id not in seen], _WRONG)
    caption = f"{len(drawn)} of {total:,} answers, drawn by their ids alone: the same ones for every run"
    blocks: list[Block] = [Samples(caption, drawn)]
    if others:
        blocks.append(Samples(f"{len(others)} more of the {len(wrong):,} that count as wrong", others))
    return Section("Samples", blocks)
