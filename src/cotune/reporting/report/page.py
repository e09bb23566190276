"""A report as one HTML file without any other: figures inside, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from cotune.evaluation.score_tables import Printed
from cotune.reporting.answer_page import answer_card
from cotune.reporting.report.blocks import (
    Block,
    Figure,
    Finding,
    Findings,
    Listing,
    Missing,
    Samples,
    Section,
    Tile,
    Tiles,
)
from cotune.reporting.report.svg import DARK, LIGHT

_LONG = 40  # characters; a longer cell is text, and may be broken
_MARKS = {"good": "✓", "note": "i", "warning": "!"}


def html_report(
    title: str,
    status: tuple[str, str],
    sections: Sequence[Section],
    figures: Mapping[str, str],
    *,
    refresh: int | None = None,
) -> str:
    """Return the page; `status` is its state and a line about it, `figures` the SVG of every figure by its name.

    With `refresh` the page loads itself again after so many seconds. Everything that came from data is escaped.
    """
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    anchors = [f"part-{number}" for number in range(len(sections))]
    links = "".join(
        f'<a href="#{anchor}">{escape(section.title)}</a>' for anchor, section in zip(anchors, sections, strict=True)
    )
    parts = [_section(section, anchor, figures) for section, anchor in zip(sections, anchors, strict=True)]
    return template.substitute(
        title=escape(title),
        state=escape(status[0]),
        state_class=escape(status[0].replace(" ", "-")),
        about=escape(status[1]),
        refresh="" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">',
        light=_variables(LIGHT),
        dark=_variables(DARK),
        links=links,
        sections="\n".join(parts),
    )


def _variables(colors: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def _section(section: Section, anchor: str, figures: Mapping[str, str]) -> str:
    """Return a section; figures that follow one another stand side by side where there is room."""
    parts: list[str] = []
    row: list[str] = []
    for block in section.blocks:
        if isinstance(block, Figure):
            row.append(_figure(block, figures[block.name]))
            continue
        if row:
            parts.append(_row(row))
            row = []
        parts.append(_block(block))
    if row:
        parts.append(_row(row))
    return f'<section id="{anchor}"><h2>{escape(section.title)}</h2>{"".join(parts)}</section>'


def _row(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def _block(block: Block) -> str:
    if isinstance(block, Tiles):
        return f'<div class="tiles">{"".join(map(_tile, block.tiles))}</div>'
    if isinstance(block, Findings):
        return f'<ul class="findings">{"".join(map(_finding, block.findings))}</ul>'
    if isinstance(block, Missing):
        return f'<p class="missing">{escape(block.text)}</p>'
    if isinstance(block, Samples):
        cards = "".join(map(answer_card, block.predictions))
        return f'<p class="caption">{escape(block.caption)}.</p><div class="answers">{cards}</div>'
    if isinstance(block, Listing):
        return f"<details><summary>{escape(block.title)}</summary><pre>{escape(block.text)}</pre></details>"
    assert isinstance(block, Printed)
    return _table(block)


def _tile(tile: Tile) -> str:
    note = f"<small>{escape(tile.note)}</small>" if tile.note else ""
    return f'<div class="tile"><span>{escape(tile.label)}</span><b>{escape(tile.value)}</b>{note}</div>'


def _finding(finding: Finding) -> str:
    mark = f'<i aria-label="{finding.kind}">{_MARKS[finding.kind]}</i>'
    return f'<li class="{finding.kind}">{mark}<span>{escape(finding.text)}</span></li>'


def _figure(figure: Figure, svg: str) -> str:
    return (
        f'<figure id="figure-{figure.name}"><h3>{escape(figure.title)}</h3>{svg}'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Printed) -> str:
    if len(table.columns) == 1:  # notes: no numbers to line up
        items = "".join(f"<li>{escape(row[0])}</li>" for row in table.rows)
        return f'<p class="caption">{escape(table.title)}</p><ul class="notes">{items}</ul>'
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<div class="wide"><table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    kind = ' class="long"' if len(text) > _LONG else ""
    return f"<td{kind}>{escape(text)}</td>"
