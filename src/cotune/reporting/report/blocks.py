"""What a report is made of, whichever way it is printed: sections of texts, findings, tables, figures and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cotune.evaluation.prediction import Prediction
from cotune.evaluation.score_tables import Printed

Kind = Literal["good", "note", "warning"]
# Draws on an empty matplotlib figure, with the colours of `svg.COLORS`.
Draw = Callable[[Any], None]


@dataclass(frozen=True)
class Tile:
    """One number to see first: what it is, its value, and what to read it against."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Numbers side by side."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Finding:
    """A sentence that says what was seen and, for a warning, what to do."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Findings:
    """Findings one under the other."""

    findings: Sequence[Finding]


@dataclass(frozen=True)
class Missing:
    """What this place would show, and why it is not there."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A picture: the name of its file, its title, a caption that says how to read it, and what draws it.

    `size` is in inches; about 4.4 wide fits a phone.
    """

    name: str
    title: str
    caption: str
    draw: Draw
    size: tuple[float, float] = (4.4, 2.8)


@dataclass(frozen=True)
class Samples:
    """Answered questions to look at, with a caption that says how they were chosen."""

    caption: str
    predictions: Sequence[Prediction]


@dataclass(frozen=True)
class Listing:
    """A long text to unfold, such as a recipe."""

    title: str
    text: str


Block = Tiles | Findings | Missing | Figure | Samples | Listing | Printed


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading."""

    title: str
    blocks: Sequence[Block]
