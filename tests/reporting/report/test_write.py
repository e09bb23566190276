"""The page, the Markdown and the pictures of a run: self-contained, escaped, whatever is missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cotune.errors import RunFolderError
from cotune.reporting.report.record import read_record
from cotune.reporting.report.write import watch_report, write_report
from tests.command_line import run
from tests.reporting.report.made_up import EVIL, write_finished, write_trace
from tests.reporting.test_answer_page import Page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="module")
def page(finished: Path) -> tuple[str, Page]:
    text = write_report(read_record(finished)).page.read_text(encoding="utf-8")
    return text, Page(text)


def test_nothing_from_data_runs_in_the_page(page: tuple[str, Page]) -> None:
    text, parsed = page
    assert len(parsed.named("script")) == 1 and "alert(1)" not in text.split("<script>")[1]
    assert all("onerror" not in attributes for _, attributes in parsed.tags)
    assert any(EVIL in content for content in parsed.texts)  # and it is shown as it is


def test_the_page_needs_no_other_file_and_no_network(page: tuple[str, Page]) -> None:
    text, parsed = page
    addresses = [a[key] for _, a in parsed.tags for key in ("src", "href", "xlink:href") if a.get(key)]
    assert addresses and all(str(address).startswith(("#", "data:")) for address in addresses)
    assert not parsed.named("link") and "@import" not in text
    assert [address for address in addresses if str(address).startswith("data:image/jpeg")]


def test_the_page_follows_the_theme_and_fits_a_phone(page: tuple[str, Page]) -> None:
    text, parsed = page
    assert "prefers-color-scheme: dark" in text
    assert any(
        meta.get("name") == "viewport" and "device-width" in str(meta["content"]) for meta in parsed.named("meta")
    )
    named = set(re.findall(r"var\(--([a-z]+)\)", text))
    light, dark = text.partition("@media (prefers-color-scheme: dark)")[::2]
    for name in named:
        assert f"--{name}:" in light and f"--{name}:" in dark, name


def test_figures_do_not_share_ids_with_each_other(page: tuple[str, Page]) -> None:
    ids = [a["id"] for _, a in page[1].tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_the_page_says_what_was_found_and_what_is_missing(page: tuple[str, Page]) -> None:
    told = " ".join(page[1].texts)
    assert "75.0%" in told and "60.0% without looking" in told
    assert f"Do this: {EVIL}" in told  # the run's own sentence
    assert "left out: 3" in told
    assert "On yes/no questions (25.0%) the run is not above what the question alone gives (30.0%)" in told
    assert "Baselines that were not trained: lora" in told
    assert "5.00 GiB" in told and "a step: 2.00 estimated" in told


def test_the_samples_are_drawn_and_the_wrong_ones_are_at_hand(page: tuple[str, Page]) -> None:
    classes = [article["class"] for article in page[1].named("article")]
    assert len(classes) == 12 and classes.count("wrong") >= 4


def test_the_markdown_names_its_pictures_and_holds_no_live_tags(finished: Path) -> None:
    written = write_report(read_record(finished))
    text = written.markdown.read_text(encoding="utf-8")
    named = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert [finished / name for name in named] == list(written.figures)
    assert all(file.is_file() for file in written.figures)
    outside = re.sub(r"(`{4,}).*?\1", "", text, flags=re.DOTALL)
    assert "<script" not in outside and "<img" not in outside and "\n# b" not in outside


@pytest.mark.parametrize("kept", ["start", "step", "skipped", "nothing"])
def test_a_trace_with_next_to_nothing_still_gives_a_report(kept: str, tmp_path: Path) -> None:
    write_trace(tmp_path, 4, end=False)
    rows = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["event"] == kept]
    if kept == "step":  # an old one: nothing but the loss
        rows = [{key: row[key] for key in ("event", "step", "loss")} for row in rows]
    if kept == "skipped":
        rows = [{"event": "skipped", "step": 1, "loss": float("nan"), "gradient_norms": {}, "samples": [EVIL] * 9}]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = " ".join(Page(write_report(read_record(tmp_path)).page.read_text(encoding="utf-8")).texts)
    assert "The cost table: it is made when a run is finished" in told
    assert ("The loss: the trace holds no step" in told) == (kept != "step")
    if kept == "skipped":
        assert "Skipped: 1 step, because" in told and "and 5 more" in told


def test_an_unfinished_run_gets_the_sentences_of_its_newest_measurement(tmp_path: Path) -> None:
    write_trace(tmp_path, 8, end=False, biased=True)
    told = " ".join(Page(write_report(read_record(tmp_path)).page.read_text(encoding="utf-8")).texts)
    assert "The language side leads: one of its steps has moved the answers 4.5 times as far" in told  # exp(3 / 2)


def test_watching_writes_again_when_there_is_more_and_ends_with_the_run(tmp_path: Path) -> None:
    write_trace(tmp_path, 4, end=False)
    seen: list[tuple[str, bool]] = []
    waits: list[float] = []

    def tell(record: Any, written: Any) -> None:
        seen.append((record.state, 'http-equiv="refresh" content="5"' in written.page.read_text(encoding="utf-8")))

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # nothing new at the first look
            (tmp_path / "trace.jsonl").unlink()
            write_trace(tmp_path, 20)
        if len(waits) == 3:
            (tmp_path / "result.json").write_text(json.dumps({"name": "made-up"}))

    watch_report(tmp_path, 5, tell, wait=wait)
    assert seen == [("under way", True), ("finished", True), ("finished", False)]
    assert waits == [5.0] * 3


def test_the_command_writes_into_the_run_or_elsewhere(finished: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("report", str(finished), "--out", str(tmp_path / "there")) == 0
    assert (tmp_path / "there" / "report.html").is_file() and (tmp_path / "there" / "report" / "loss.svg").is_file()
    assert "finished, step 20 of 20" in capsys.readouterr().out
    assert run("report", str(tmp_path / "none")) == 1
    assert "not a folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(read_record(finished), tmp_path / "taken")
