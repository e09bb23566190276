"""A report as Markdown, its figures as files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.evaluation.prediction import Prediction
from cotune.evaluation.score_tables import Printed
from cotune.reporting.report.blocks import Block, Figure, Findings, Listing, Missing, Samples, Section, Tiles

_SIGNS = {"good": "", "note": "Note: ", "warning": "**To do:** "}


def markdown_report(title: str, status: tuple[str, str], sections: Sequence[Section], figures_folder: str) -> str:
    """Return the report; figures are named as SVG files in `figures_folder`, which is relative to the text's own."""
    parts = [f"# {plain(title)}\n", f"{status[0]}: {plain(status[1])}\n"]
    for section in sections:
        parts += [f"## {section.title}\n", *(block_markdown(block, figures_folder) for block in section.blocks)]
    return "\n".join(parts)


def plain(text: str) -> str:
    """Return text from data as one line that Markdown and HTML show as it is."""
    marked = "".join(f"\\{character}" if character in "\\`*_[]|#$~" else character for character in text)
    return " ".join(marked.replace("&", "&amp;").replace("<", "&lt;").split())


def block_markdown(block: Block, folder: str) -> str:
    """Return one block; its figure lies in `folder`."""
    if isinstance(block, Tiles):
        rows = [[tile.label, tile.value, tile.note] for tile in block.tiles]
        return Printed("", ["", "value", "beside it"], rows).markdown().lstrip("\n")
    if isinstance(block, Findings):
        return "".join(f"- {_SIGNS[item.kind]}{plain(item.text)}\n" for item in block.findings)
    if isinstance(block, Missing):
        return f"*Not here: {plain(block.text)}*\n"
    if isinstance(block, Figure):
        return f"### {block.title}\n\n![{block.title}]({folder}/{block.name}.svg)\n\n{block.caption}\n"
    if isinstance(block, Samples):
        return f"{block.caption}:\n\n" + "".join(map(_sample, block.predictions))
    if isinstance(block, Listing):
        longest = "`" * (1 + max(3, block.text.count("`")))
        return f"{block.title}:\n\n{longest}yaml\n{block.text}{longest}\n"
    if len(block.columns) == 1:
        return f"{block.title}:\n\n" + "".join(f"- {plain(row[0])}\n" for row in block.rows)
    rows = [[plain(cell) for cell in row] for row in block.rows]
    # Escaped already, but for what a table itself escapes.
    return Printed(block.title, block.columns, [[cell.replace("\\|", "|") for cell in row] for row in rows]).markdown()


def _sample(item: Prediction) -> str:
    verdict = "right" if item.correct else "wrong"
    return (
        f"- {plain(item.question)} **{plain(item.prediction) or '(nothing)'}** "
        f"({verdict}; reference: {plain(item.reference)})\n"
    )
