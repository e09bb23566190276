"""The findings of a report: what happened in the run, in plain words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cotune.reporting.report.balance import raised_flags
from cotune.reporting.report.blocks import Finding
from cotune.reporting.report.data import counts_of
from cotune.reporting.report.judged_by import baseline_scores, judged_by, main_score, number, spoken, with_unit
from cotune.reporting.report.record import RunRecord

_GIB = 2**30
_LEFT_OUT = ("left out", "cut", "dropped", "not written", "could not", "blank", "skipped")


def findings(record: RunRecord) -> list[Finding]:
    """Return what is worth saying of a run, what needs doing first."""
    found = [
        *_course(record),
        *_learning(record),
        *_balance(record),
        *_routing(record),
        *_against_baselines(record),
        *_data(record),
    ]
    found += [Finding("warning", problem) for problem in record.problems]
    if not any(item.kind == "warning" for item in found):
        found.append(Finding("good", "Nothing in the trace calls for action."))
    order = {"warning": 0, "note": 1, "good": 2}
    return sorted(found, key=lambda item: order[item.kind])


def _counted(number: int, what: str) -> str:
    """Return a number of things in words: 1 step, 1,200 steps."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _course(record: RunRecord) -> Iterator[Finding]:
    """Say why a run is not finished, and how it went on."""
    go_on = f"cotune train {record.folder}/recipe.yaml --resume"
    stopped = record.newest("stopped")
    where = f"after step {record.last_step}" + (f" of {record.wanted_steps}" if record.wanted_steps else "")
    if record.state == "diverged":
        reason = stopped.get("reason") or "too many steps in a row had no finite loss or gradient"
        yield Finding("warning", f"The run diverged {where}: {reason}")
    elif record.state == "stopped":
        reason = (
            stopped.get("reason") or f"Nothing has been written since step {record.last_step}, and no end is recorded"
        )
        yield Finding("warning", reason if "--resume" in reason else f"{reason}. It goes on with: {go_on}")
    elif record.state == "under way":
        yield Finding("note", f"The run is under way, {where}; a report made later says more.")
    if record.result.get("resumed"):
        yield Finding("note", f"The run was resumed ({record.result['resumed']}x); the result is the same as without.")
    for change in record.result.get("changed_under_way") or ():
        told = "; ".join(change.get("changed", ()))
        yield Finding("warning", f"Changed under way, after step {change.get('after_step')}: {told}")


def _learning(record: RunRecord) -> Iterator[Finding]:
    """Say which components and tensors stood still."""
    moved = record.newest("moved")
    for name, learned in (moved.get("components") or {}).items():
        still = (moved.get("still") or {}).get(name) or []
        if not learned:
            yield Finding(
                "warning",
                f"{name} did not change in the first {moved['step']} steps, although the recipe trains it: look at its "
                "rate, and whether the data uses it at all.",
            )
        elif still:
            more = f" and {len(still) - 2} more" if len(still) > 2 else ""
            yield Finding(
                "warning",
                f"{_counted(len(still), 'tensor')} of {name} did not learn at first: {', '.join(still[:2])}{more}.",
            )


def _routing(record: RunRecord) -> Iterator[Finding]:
    """Say where experts have not parted; their verdict holds the advice."""
    for row in {row["component"]: row for row in record.rows.get("experts", ())}.values():
        verdict = str(row.get("verdict", ""))
        if "one adapter stored" in verdict:
            yield Finding("warning", f"Experts of {row['component']}: {verdict}.")


def _balance(record: RunRecord) -> Iterator[Finding]:
    """Say what the diagnosis said at the end; of an unfinished run, what it says of the newest measurement."""
    coordination = record.result.get("coordination")
    told = _newest_sentences(record) if coordination is None else coordination.get("sentences", [])
    yield from (Finding("warning", sentence) for sentence in told)
    raised = raised_flags(record.measured)
    for name, flags in raised.items():
        if not flags[-1]:
            share = sum(flags) / len(flags)
            yield Finding("note", f"Flag '{name}': up at {share:.0%} of the balance measurements, not at the last one.")
    if record.measured and not told and not raised:
        known = record.measured[-1]["balance"].get("diagnosis", {}).get("log_kappa_median") is not None
        well = "The balance neither oscillates nor has a component that stopped learning."
        young = f"The balance cannot be judged yet, by {_counted(len(record.measured), 'measurement')}."
        yield Finding("good", well) if known else Finding("note", young)
    for reason, count in ((coordination or {}).get("rejected_for") or {}).items():
        yield Finding("note", f"{_counted(count, 'balance measurement')} said nothing: {reason}.")
    for what, count in ((coordination or {}).get("failed") or {}).items():
        yield Finding("note", f"Failed and passed over {_counted(count, 'time')}: {what}.")


def _newest_sentences(record: RunRecord) -> list[str]:
    rows = [row for row in record.measured if "diagnosis" in row["balance"]]
    if not rows:
        return []
    # Imported here: it brings torch, which a finished run's report does without.
    from cotune.coordination.report import DiagnosisSettings, report_of
    from cotune.coordination.sentences import sentences

    settings = record.setting("coordination", "diagnosis") or {}
    known = {key: value for key, value in settings.items() if key in DiagnosisSettings.__dataclass_fields__}
    newest = rows[-1]
    return sentences(report_of(newest["step"], newest["balance"]["diagnosis"]), DiagnosisSettings(**known))


def _against_baselines(record: RunRecord) -> Iterator[Finding]:
    """Say whether the main score is above what can be had without looking, and whether text was kept."""
    main, value, baselines = judged_by(record)[0], main_score(record), baseline_scores(record)
    known = {name: number(scores, main) for name, scores in baselines.items()}
    found = {name: score for name, score in known.items() if score is not None}
    if value is not None and found:
        best = max(found, key=lambda name: found[name])
        own, other = with_unit(record.result, main), with_unit(baselines[best], main)
        told = f"On the test set {spoken(main)} {own}; the best baseline at hand: {spoken(best)} {other}"
        above = value > found[best]
        yield Finding("good" if above else "warning", f"{told}." if above else f"{told}: the run is not above it.")
    yield from _not_above_the_question(record.result, baselines.get("question_only") or {})
    if record.result.get("text_kl") == 0.0:
        yield Finding("good", "The text path is the base model bit for bit (KL 0).")
    elif record.result.get("text_kl"):
        kl, same = record.result["text_kl"], record.result.get("text_agreement")
        tokens = "" if same is None else f", {same:.0%} of its tokens are the same"
        yield Finding("note", f"Text replies moved away from the base model: KL {kl:.2g}{tokens}.")


def _not_above_the_question(result: Mapping[str, Any], blind: Mapping[str, Any]) -> Iterator[Finding]:
    """Say which kind of question is answered no better than by the question alone."""
    for name, kind in (("open_accuracy", "open questions"), ("yes_no_accuracy", "yes/no questions")):
        value, without = result.get(name), blind.get(name)
        if value is not None and without is not None and value <= without:
            yield Finding(
                "warning",
                f"On {kind} ({value:.1%}) the run is not above what the question alone gives ({without:.1%}): nothing "
                "says yet that it looks. Tune longer, or draw the data so that the question alone predicts nothing "
                "(data.train.N.balance).",
            )


def _data(record: RunRecord) -> Iterator[Finding]:
    """Say what was skipped or left out, what of the test was trained on, and what took more than was foretold."""
    if record.rows.get("skipped"):
        skipped = len(record.rows["skipped"])
        yield Finding(
            "warning",
            f"Skipped: {_counted(skipped, 'step')}, because the loss or a gradient was no number; the samples are "
            "named under Data and skips. Lower components.*.rate or training.clip_norm if there are many.",
        )
    for name, count in counts_of(record).items():
        if count and any(word in name for word in _LEFT_OUT) and "steps skipped" not in name:
            yield Finding("note", f"{name}: {count:,}.")
    overlap = record.start.get("overlap") or {}
    if overlap.get("questions"):
        share = f"{overlap['questions']:,} of {overlap['of_questions']:,}"
        yield Finding(
            "warning",
            f"In the training data too, with the same pictures and sounds: {share} test questions (for example sample "
            f"'{overlap.get('example')}'). Scores on them say nothing about new ones.",
        )
    compared = record.result.get("estimate") or {}
    taken, most = compared.get("memory_taken_bytes"), compared.get("memory_high_bytes")
    if compared.get("on_gpu") and taken and most and taken > most:
        sizes = f"{taken / _GIB:.2f} GiB, estimated were {most / _GIB:.2f} at most"
        yield Finding("note", f"Model and steps took more memory than estimated: {sizes}.")
    if record.result.get("overflows"):
        yield Finding(
            "note", f"Left out while fp16 looked for its loss scale: {_counted(record.result['overflows'], 'step')}."
        )
