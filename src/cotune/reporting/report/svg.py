"""Figures as SVG that follow the page's light or dark theme, with text as text.

Every colour of a figure stands for a variable of the page's style sheet: matplotlib draws with colours that nothing
else has, and they are replaced by the variables' names (or, in a file of its own, by the light theme's colours).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from cotune.reporting.report.blocks import Figure

LIGHT: Mapping[str, str] = {
    "ink": "#1d2430",
    "soft": "#5b6675",
    "line": "#dde2e9",
    "card": "#ffffff",
    "vision": "#d1495b",
    "audio": "#8e5bd0",
    "connector": "#0a8f83",
    "llm": "#2b63c9",
    "features": "#c9700a",
    "language": "#2b63c9",
    "accent": "#2b63c9",
    "good": "#19803d",
    "bad": "#c4322b",
    "one": "#2b63c9",
    "two": "#d1495b",
    "three": "#0a8f83",
    "four": "#c9700a",
    "five": "#8e5bd0",
}
DARK: Mapping[str, str] = {
    "ink": "#e8edf4",
    "soft": "#9aa6b5",
    "line": "#2c3542",
    "card": "#161c25",
    "vision": "#ff8494",
    "audio": "#c4a1ff",
    "connector": "#44d1c3",
    "llm": "#82aaff",
    "features": "#ffb454",
    "language": "#82aaff",
    "accent": "#82aaff",
    "good": "#4ccb75",
    "bad": "#ff7d72",
    "one": "#82aaff",
    "two": "#ff8494",
    "three": "#44d1c3",
    "four": "#ffb454",
    "five": "#c4a1ff",
}
# What a drawing function names, with the colour that stands for it in matplotlib's output.
COLORS: Mapping[str, str] = {name: f"#0{index:02x}0fe" for index, name in enumerate(LIGHT, start=1)}
SERIES = tuple(COLORS[name] for name in ("one", "two", "three", "four", "five"))

_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.8,
    "axes.edgecolor": COLORS["line"],
    "axes.labelcolor": COLORS["soft"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.7,
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["line"],
    "ytick.color": COLORS["line"],
    "xtick.labelcolor": COLORS["soft"],
    "ytick.labelcolor": COLORS["soft"],
    "legend.frameon": False,
    "legend.fontsize": 9.2,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
}


def color_of(component: str) -> str:
    """Return the colour of a component or side; of one that is not known, the first of a series."""
    return COLORS.get(component, SERIES[0])


def label(text: str) -> str:
    """Return text from data as matplotlib shows it: dollars are no formulas, and words stand apart."""
    return text.replace("$", r"\$").replace("_", " ").strip()


def draw_svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element to stand in a page; its colours are the page's `var(--NAME)`."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    stream = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(stream.getvalue(), figure)


def standalone(svg: str) -> str:
    """Return an `<svg>` element of `draw_svg` as a file of its own, in the light theme on white."""
    for name, color in LIGHT.items():
        svg = svg.replace(f"var(--{name})", color)
    head, rest = svg.split(">", 1)
    background = f'<rect width="100%" height="100%" fill="{LIGHT["card"]}"/>'
    font = f"<style>text {{ font-family: {_FONT} !important; }}</style>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>{font}{background}{rest}'


def _for_page(svg: str, figure: Figure) -> str:
    """Return the element alone: variables for colours, ids no other figure has, its size left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(r'\bid="', f'id="{figure.name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{figure.name}-", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    label = escape(f"{figure.title}. {figure.caption}", quote=True)
    return f'{head} role="img" aria-label="{label}">{rest}'.strip()
