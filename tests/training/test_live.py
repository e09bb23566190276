"""What is shown while a run is tuned: the essentials, from the rows of its trace."""

import io
from pathlib import Path

from rich.console import Console

from cotune.trace import Trace
from cotune.training.live import Essentials, curve, tuning_display
from tests.reporting.report.made_up import EVIL, GIB, balance


def shown(essentials: Essentials, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(essentials.lines)
    return console.file.getvalue()  # type: ignore[attr-defined]


def step(number: int, loss: float, **fields: object) -> dict[str, object]:
    rates = {"connector": 1e-3, "llm": 5e-4}
    return {
        "event": "step",
        "step": number,
        "loss": loss,
        "tokens": 100,
        "step_seconds": 0.5,
        "peak_memory_bytes": 3 * GIB,
        "rates": rates,
        "gradient_norms": rates,
        **fields,
    }


def test_the_essentials_say_how_the_run_stands() -> None:
    essentials = Essentials()
    assert not shown(essentials).strip()
    essentials.see({"event": "start", "memory": {"low": 1, "expected": 2 * GIB, "high": 3}})
    essentials.see({"event": "held_out", "loss": 1.25})
    found = balance(2, biased=True)
    found["diagnosis"]["log_kappa_average"] = -0.5
    essentials.see(step(1, 2.0, balance=found))
    essentials.see(step(2, 1.0))
    essentials.see({"event": "skipped", "step": 3})
    text = shown(essentials)
    assert "held out 1.250" in text and "connector 1.0e-03" in text
    assert "log kappa -0.50: feature side ahead" in text and "language 2.0e-03" in text
    assert "biased" in text and "cotune report" in text
    assert "200 tokens/s" in text and "3.00 GiB" in text and "estimated at 2.00" in text
    assert "1 steps without" in text


def test_a_long_run_keeps_the_whole_curve_in_its_width() -> None:
    essentials = Essentials()
    for number in range(1, 5001):
        essentials.see(step(number, float(5001 - number)))
    line = shown(essentials).splitlines()[0]
    blocks = [character for character in line if character in "▁▂▃▄▅▆▇█"]
    assert 20 <= len(blocks) <= 40
    assert blocks[0] == "█" and blocks[-1] == "▁" and blocks == sorted(blocks, reverse=True)


def test_lines_are_cut_at_the_width_of_the_terminal() -> None:
    essentials = Essentials()
    essentials.see(step(1, 1.0, rates={f"component-{number}": 1e-3 for number in range(20)}))
    assert all(len(line) <= 60 for line in shown(essentials, width=60).splitlines())


def test_a_curve_of_equal_numbers_is_flat() -> None:
    assert curve([2.0, 2.0]) == "▁▁" and curve([0.0, 1.0]) == "▁█"


def test_a_terminal_shows_them_and_a_log_gets_one_line(tmp_path: Path) -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        with Trace(tmp_path / f"{terminal}.jsonl") as trace:
            with tuning_display(console, 2, trace) as advance:
                trace.write(**step(1, 2.0))  # type: ignore[arg-type]
                advance(2)
            assert not trace.listeners
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("gradient" in printed) == terminal
        assert ("Tuning: 2 steps in" in printed) == (not terminal)


def test_a_resumed_run_shows_what_was_before(tmp_path: Path) -> None:
    with Trace(tmp_path / "trace.jsonl") as trace:
        trace.write(**step(1, 2.0))  # type: ignore[arg-type]
        console = Console(file=io.StringIO(), force_terminal=True, width=100)
        with tuning_display(console, 2, trace):
            pass
    assert "connector 1.0e-03" in console.file.getvalue()  # type: ignore[attr-defined]


def test_names_from_data_do_not_style_the_terminal() -> None:
    essentials = Essentials()
    essentials.see({"event": "validation", "scores": {f"[red]{EVIL}": 0.5}})
    essentials.see(step(1, 1.0))
    assert "[red]" in shown(essentials, width=400)
