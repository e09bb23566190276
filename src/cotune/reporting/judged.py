"""Two runs before a judge: from their folders to a table of ratings, wins and what could not be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from cotune.errors import CotuneError
from cotune.evaluation.comparison import Pairs, pair
from cotune.evaluation.dialogue import ORDERS, Standing, Verdict, each_verdict, read_contexts, standings
from cotune.evaluation.judge_client import Judge
from cotune.evaluation.judge_prompt import read_rules
from cotune.progress import progress, table
from cotune.reporting.run_comparison import answers_folder, predictions_of
from cotune.run_folder import short_names
from cotune.whole_file import write_whole


def judge_runs(
    folders: Sequence[Path],
    judge: Judge,
    out: Path,
    console: Console,
    *,
    rules: Path | None,
    contexts: Path | None,
    task: str | None = None,
    limit: int | None = None,
) -> dict[str, Standing]:
    """Ask the judge about the answers of two runs, write `verdicts.jsonl` and `judged.json`, and return the standings.

    `task` chooses among the answers of a run to several tasks; only the first `limit` shared questions are judged.
    Where the judge stops in the middle, the standings so far are printed.

    Raises:
        DataError: for runs that cannot be paired, or rules and descriptions that cannot be read.
        JudgeError, CostCapError: what was judged is kept, and the same command goes on.
    """
    names = short_names(folders)
    found_rules, described = read_rules(rules), read_contexts(contexts)
    places = zip(names, folders, strict=True)
    pairs = pair({name: predictions_of(answers_folder(folder, task)) for name, folder in places})
    _tell_left_out(pairs, described if contexts is not None else None, console)
    pairs = replace(pairs, runs={name: items[:limit] for name, items in pairs.runs.items()})
    verdicts: list[Verdict] = []
    try:
        with progress(console, "Judging", pairs.samples * len(ORDERS), "replies") as advance:
            for verdict in each_verdict(pairs, judge, found_rules, described, out / "verdicts.jsonl"):
                verdicts.append(verdict)
                advance(1)
    except CotuneError:
        whole = verdicts[: len(verdicts) // len(ORDERS) * len(ORDERS)]
        if whole:
            console.print(f"So far, {len(whole) // len(ORDERS):,} of {pairs.samples:,} questions:")
            print_standings(standings(whole), folders, console)
        raise
    finally:
        console.print(f"Asked {judge.model}: {judge.requests} requests, {judge.tokens:,} tokens")
    found = standings(verdicts)
    content = {"runs": names, "judge": judge.model, "left_out": dict(pairs.left_out)}
    results = {name: asdict(standing) for name, standing in found.items()}
    write_whole(out / "judged.json", json.dumps(content | {"standings": results}, indent=2) + "\n")
    console.print(f"Written: {out / 'judged.json'}", soft_wrap=True)
    return found


def _tell_left_out(pairs: Pairs, described: Mapping[str, str] | None, console: Console) -> None:
    """Say which samples are not judged, and how many have no description where there are descriptions."""
    for name, count in pairs.left_out.items():
        if count:
            console.print(f"{name}: {count:,} samples left out, which the other lacks")
    if described is not None:
        bare = [item.id for item in next(iter(pairs.runs.values())) if item.id not in described]
        if bare:
            told = f"{len(bare):,} of {pairs.samples:,} questions have no description in --contexts"
            console.print(
                f"[yellow]{told} (for example sample '{bare[0]}'); they are judged without[/]", soft_wrap=True
            )


def print_standings(found: dict[str, Standing], folders: Sequence[Path], console: Console) -> None:
    """Print the table, a column for each category of questions, and what its rows mean."""
    first, second = short_names(folders)
    names = (
        "questions",
        f"mean rating of {first} (1 to 10)",
        f"mean rating of {second} (1 to 10)",
        f"{second} in percent of {first}",
        f"won by {second}",
        "tied",
        f"won by {first}",
        "both orders disagree",
        "unread replies",
    )
    columns = [_cells(standing) for standing in found.values()]
    rows = [[name, *(cells[place] for cells in columns)] for place, name in enumerate(names)]
    console.print(table(f"{second} against {first}", ["", *found], rows))
    console.print(
        "Each answer is read in both places. Percent: LLaVA's score. A question is won on the sum of both orders; both "
        "orders disagree where they name different winners. Unread: a reply without two ratings on its first line; "
        "such questions count nowhere else.",
        markup=False,
    )


def _cells(found: Standing) -> list[str]:
    means = ["-" if value is None else f"{value:.2f}" for value in (found.first, found.second)]
    relative = "-" if found.relative is None else f"{found.relative:.1f}"
    counts = (found.won, found.tied, found.lost, found.disagreed, found.unreadable)
    return [str(found.questions), *means, relative, *map(str, counts)]
