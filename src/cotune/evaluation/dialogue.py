"""Judged dialogue: two runs' answers to the same questions, rated by a judge in both orders.

A judge prefers what it reads first or second; asked both ways, that cancels, and where the two orders disagree it is
seen. Every reply is on disk before the next question, so a stopped comparison goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cotune.errors import DataError
from cotune.evaluation.comparison import Pairs
from cotune.evaluation.judge_client import Reply
from cotune.evaluation.judge_prompt import Rule, judge_prompt, read_ratings
from cotune.evaluation.prediction import Prediction

ORDERS = ("given", "swapped")


class Asked(Protocol):
    """What answers a prompt."""

    model: str

    def ask(self, prompt: str) -> Reply:
        """Return the reply to one prompt."""


@dataclass(frozen=True)
class Verdict:
    """One reply of the judge: `prompt` is a digest of what was asked, ratings are of the first and second run.

    They are None when the reply could not be read.
    """

    id: str
    order: str
    category: str
    prompt: str
    reply: str
    tokens: int
    first: float | None
    second: float | None


@dataclass(frozen=True)
class Standing:
    """What a set of questions came to.

    `first` and `second` are the mean ratings, `relative` LLaVA's score of the second run: its ratings in percent of the
    first's. A question is won by the higher sum of both orders; `disagreed` counts those whose two orders name
    different winners. Questions with an unreadable reply are in `unreadable` and nowhere else.
    """

    questions: int
    first: float | None
    second: float | None
    relative: float | None
    won: int
    tied: int
    lost: int
    disagreed: int
    unreadable: int


def read_contexts(path: Path | None) -> dict[str, str]:
    """Return the descriptions that stand for pictures, by sample id, from lines of `{"id": ..., "text": ...}`.

    `question_id` and `caption` are taken too, as LLaVA's files have them; several texts are joined by line breaks.

    Raises:
        DataError: naming every line that cannot be used.
    """
    found: dict[str, str] = {}
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path else [], start=1):
        try:
            row = json.loads(line)
            key = row["id"] if "id" in row else row["question_id"]
            text = row["text"] if "text" in row else row["caption"]
            found[str(key)] = text if isinstance(text, str) else "\n".join(text)
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path}:{number}: an object with `id` and `text` is expected")
    if problems:
        raise DataError("descriptions that cannot be read", problems)
    return found


def judge_pairs(
    pairs: Pairs,
    judge: Asked,
    rules: Mapping[str, Rule],
    contexts: Mapping[str, str],
    file: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Verdict]:
    """Return the judge's verdicts on every shared sample in both orders; those in `file` already are not asked again.

    Raises:
        DataError: for other than two runs, a damaged file, or one by another judge.
    """
    verdicts = []
    for verdict in each_verdict(pairs, judge, rules, contexts, file):
        verdicts.append(verdict)
        advance(1)
    return verdicts


def each_verdict(
    pairs: Pairs, judge: Asked, rules: Mapping[str, Rule], contexts: Mapping[str, str], file: Path
) -> Iterator[Verdict]:
    """Yield what `judge_pairs` returns, each verdict as soon as it is given and written down."""
    if len(pairs.runs) != 2:
        raise DataError("dialogue is judged in pairs", [f"two runs are needed, not {len(pairs.runs)}"])
    known = {(row.id, row.order, row.prompt): row for row in _read(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        for first, second in zip(*pairs.runs.values(), strict=True):
            for order in ORDERS:
                prompt = _prompt(rules, contexts, first, second, order)
                # The judge's name is part of what was asked: another judge's verdicts are others.
                digest = hashlib.sha256(f"{judge.model}\0{prompt}".encode()).hexdigest()[:16]
                verdict = known.get((first.id, order, digest))
                if verdict is None:
                    verdict = _judged(judge, prompt, digest, first, order)
                    stream.write(json.dumps(asdict(verdict), ensure_ascii=False) + "\n")
                    stream.flush()
                yield verdict


def _prompt(
    rules: Mapping[str, Rule], contexts: Mapping[str, str], first: Prediction, second: Prediction, order: str
) -> str:
    answers = (first.prediction, second.prediction)
    shown = answers if order == ORDERS[0] else answers[::-1]
    return judge_prompt(rules, _category(first), contexts.get(first.id, ""), first.question, (shown[0], shown[1]))


def _category(item: Prediction) -> str:
    return item.meta.get("category", "")


def _judged(judge: Asked, prompt: str, digest: str, item: Prediction, order: str) -> Verdict:
    reply = judge.ask(prompt)
    ratings = read_ratings(reply.text)
    if ratings is not None and order == ORDERS[1]:
        ratings = ratings[::-1]
    first, second = ratings or (None, None)
    return Verdict(item.id, order, _category(item), digest, reply.text, reply.tokens, first, second)


def _read(file: Path) -> list[Verdict]:
    """Return the verdicts of a file; a last line that was cut short is removed from it."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    if lines[-1]:  # no line break behind it: it was not written to its end
        file.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
    problems, found = [], []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(Verdict(**json.loads(line)))
        except (ValueError, TypeError) as error:
            problems.append(f"{file}:{number}: {error}")
    if problems:
        raise DataError("damaged verdicts; remove these lines, and they are asked again", problems)
    return found


def standings(verdicts: Sequence[Verdict]) -> dict[str, Standing]:
    """Return what came of all questions, under `all`, and of each category where there are several."""
    categories = sorted({row.category for row in verdicts})
    groups = {"all": list(verdicts)}
    if len(categories) > 1:
        groups |= {name or "no category": [row for row in verdicts if row.category == name] for name in categories}
    return {name: _standing(rows) for name, rows in groups.items()}


def _standing(verdicts: Sequence[Verdict]) -> Standing:
    by_id: dict[str, list[Verdict]] = {}
    for row in verdicts:
        by_id.setdefault(row.id, []).append(row)
    readable = [rows for rows in by_id.values() if all(row.first is not None for row in rows)]
    leads = [[(row.second or 0.0) - (row.first or 0.0) for row in rows] for rows in readable]
    sums = [sum(lead) for lead in leads]
    count = sum(map(len, readable))
    first = sum(row.first or 0.0 for rows in readable for row in rows)
    second = sum(row.second or 0.0 for rows in readable for row in rows)
    return Standing(
        questions=len(by_id),
        first=first / count if count else None,
        second=second / count if count else None,
        relative=100 * second / first if first else None,
        won=sum(value > 0 for value in sums),
        tied=sum(value == 0 for value in sums),
        lost=sum(value < 0 for value in sums),
        disagreed=sum(min(lead) < 0 < max(lead) for lead in leads),
        unreadable=len(by_id) - len(readable),
    )
