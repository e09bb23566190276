"""The figures of a report: what is drawn are the numbers of the trace, in colours of the theme."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from cotune.reporting.report.balance import raised_flags
from cotune.reporting.report.blocks import Figure
from cotune.reporting.report.record import read_record
from cotune.reporting.report.svg import COLORS, DARK, LIGHT, draw_svg, standalone
from cotune.reporting.report.write import sections_of
from tests.reporting.report.made_up import GIB, WEIGHTS, balance, write_finished, write_trace


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    record = read_record(write_finished(tmp_path_factory.mktemp("made") / "run"))
    blocks = [block for section in sections_of(record) for block in section.blocks]
    return {block.name: block for block in blocks if isinstance(block, Figure)}


def drawn(figure: Figure) -> Any:
    """The one axis of a figure, drawn."""
    canvas = Canvas(figsize=figure.size)
    figure.draw(canvas)
    return canvas.axes[0]


def lines_of(axis: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_a_run_with_everything_gets_every_figure(figures: dict[str, Figure]) -> None:
    wanted = {
        "loss",
        "scores",
        "log-kappa",
        "divergence",
        "rates",
        "multipliers",
        "gradients",
        "routing",
        "speed",
        "memory",
    }
    assert set(figures) == wanted


def test_rates_and_multipliers_are_those_of_the_trace(figures: dict[str, Figure]) -> None:
    rates = lines_of(drawn(figures["rates"]))
    assert rates["connector"] == (list(range(1, 21)), [1e-3] * 20) and rates["llm"][1] == [5e-4] * 20
    multipliers = lines_of(drawn(figures["multipliers"]))
    assert multipliers["llm"] == (list(range(2, 21, 2)), [0.5] * 10) and multipliers["connector"][1] == [2.0] * 10


def test_equal_rates_are_one_line_with_all_names(tmp_path: Path) -> None:
    write_trace(tmp_path, 3)
    text = (tmp_path / "trace.jsonl").read_text().replace('"llm": 0.0005', '"llm": 0.001')
    (tmp_path / "trace.jsonl").write_text(text)
    blocks = [block for section in sections_of(read_record(tmp_path)) for block in section.blocks]
    figure = next(block for block in blocks if isinstance(block, Figure) and block.name == "rates")
    assert "connector = llm" in lines_of(drawn(figure))


def test_the_speed_is_tokens_over_seconds(figures: dict[str, Figure]) -> None:
    axis = drawn(figures["speed"])
    assert set(axis.get_lines()[0].get_ydata()) == {200.0}
    assert "200 over the whole run" in figures["speed"].caption


def test_memory_shows_what_was_held_and_the_estimate_with_its_range(figures: dict[str, Figure]) -> None:
    bars = [(patch.get_x() * GIB, patch.get_width() * GIB) for patch in drawn(figures["memory"]).patches]
    assert bars == [(0.0, 5.0 * GIB), (1.0 * GIB, 2.0 * GIB)]


def test_the_heat_map_holds_every_weight(figures: dict[str, Figure]) -> None:
    svg = draw_svg(figures["routing"])
    filled = re.findall(r'style="fill: var\(--accent\)(?:; opacity: ([\d.]+))?"', svg)
    wanted = sorted(value for site in WEIGHTS.values() for row in site for value in row if value)
    assert sorted(float(opacity or 1.0) for opacity in filled) == wanted
    # Both text rows of the first site are zero, one of the second are not: text is not untouched.
    assert "base model" not in figures["routing"].caption


def test_flags_are_what_the_diagnosis_raised() -> None:
    rows = [{"step": step, "balance": balance(step, biased=step > 4)} for step in (2, 4, 6)]
    assert raised_flags(rows) == {"one side leads": [False, False, True]}
    assert raised_flags(rows[:2]) == {}


def test_every_figure_is_sound_xml_in_colours_of_the_theme_only(figures: dict[str, Figure]) -> None:
    ids: set[str] = set()
    for figure in figures.values():
        svg = draw_svg(figure)
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and figure.title in (root.get("aria-label") or "")
        assert "width" not in root.attrib  # as wide as the page has room
        own = {element.get("id") for element in root.iter() if element.get("id")}
        assert not ids & {str(name) for name in own}
        ids |= {str(name) for name in own}
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\([^)]*\)', "", svg)), figure.name
        assert "<image" not in svg and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)


def test_a_file_of_its_own_has_the_light_colours_and_no_variables(figures: dict[str, Figure]) -> None:
    alone = standalone(draw_svg(figures["loss"]))
    ElementTree.fromstring(alone.partition("\n")[2])
    assert "var(--" not in alone and LIGHT["one"] in alone
    assert set(LIGHT) == set(DARK) == set(COLORS) and len(set(COLORS.values())) == len(COLORS)


def test_names_from_data_are_text_in_a_figure(figures: dict[str, Figure]) -> None:
    svg = draw_svg(figures["scores"])
    assert "<script>" not in svg and "&lt;script&gt;" in svg and "$title" in svg
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert "<script>alert(1)</script>" in texts  # it is there, as text
