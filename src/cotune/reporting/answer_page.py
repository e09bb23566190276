"""A page of answers to look at: pictures and sounds inside of it, right and wrong told apart, to be filtered.

One HTML file without any other: it can be sent by mail, and opens without a network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from hashlib import blake2b
from html import escape
from pathlib import Path
from string import Template

from rich.console import Console

from cotune.data.media import load_image
from cotune.data.readers.captions import SOUND_SUFFIXES
from cotune.errors import DataError
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.score_tables import Printed
from cotune.progress import progress
from cotune.whole_file import write_whole

Save = Callable[[io.BytesIO], object]

_PICTURE_SIDE = 320  # pixels
_SOUND_RATE = 16_000
_SOUND_SECONDS = 30.0


def write_answer_page(
    predictions: Sequence[Prediction],
    file: Path,
    *,
    title: str,
    tables: Sequence[Printed],
    count: int,
    console: Console,
) -> None:
    """Write a page with `count` of the predictions, chosen by their ids alone, in their order.

    Pictures are shrunk and sounds cut to half a minute; what cannot be shown is named by its path.
    """
    chosen = choose_some(predictions, count)
    with progress(console, "Drawing the page of answers", len(chosen), "answers") as advance:
        cards = []
        for item in chosen:
            cards.append(answer_card(item))
            advance()
    right = sum(item.correct for item in chosen)
    content = Template(Path(__file__).with_name("answer_page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        shown=f"{len(chosen):,} of {len(predictions):,} answers",
        all=len(chosen),
        right=right,
        wrong=len(chosen) - right,
        tables="\n".join(_table(table) for table in tables),
        cards="\n".join(cards),
    )
    write_whole(file, content)


def choose_some(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return up to `count` predictions in their order, drawn by their ids alone: the same ones for every run."""
    digests = [blake2b(item.id.encode(errors="replace"), digest_size=8).digest() for item in predictions]
    first = sorted(range(len(predictions)), key=lambda index: (digests[index], index))[:count]
    return [predictions[index] for index in sorted(first)]


def answer_card(item: Prediction) -> str:
    """Return one answer as HTML; everything in it that came from data is escaped."""
    media = "\n".join(_medium(Path(path)) for path in item.media)
    verdict = "right" if item.correct else "wrong"
    points = "" if item.credit is None or item.credit in (0.0, 1.0) else f" {item.credit:.2f}"
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in item.meta.items())
    if item.prompt:
        facts += f"<dt>prompt</dt><dd>{escape(item.prompt)}</dd>"
    said = escape(item.prediction) or "<i>nothing</i>"
    return (
        f'<article class="{verdict}">{media}<p class="question">{escape(item.question)}</p>'
        f'<p class="answer"><b class="verdict">{verdict}{points}</b> {said}</p>'
        f'<p class="reference">reference: {escape(item.reference)}</p>'
        f"<details><summary>{escape(item.id)}</summary><dl>{facts}</dl></details></article>"
    )


def _medium(path: Path) -> str:
    """Return a picture or sound as HTML, its data inside; its path when it cannot be shown."""
    try:
        if path.suffix.lower() in SOUND_SUFFIXES:
            return f'<audio controls src="data:audio/ogg;base64,{_small_sound(path)}"></audio>'
        return f'<img decoding="async" alt="{escape(path.name)}" src="data:image/jpeg;base64,{_small_picture(path)}">'
    except (DataError, OSError, ImportError):
        return f'<p class="unseen">not shown: {escape(str(path))}</p>'


def _small_picture(path: Path) -> str:
    """Return a picture as base64 JPEG, at most 320 pixels wide and high."""
    picture = load_image(path)
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    return _encoded(lambda stream: picture.save(stream, format="JPEG", quality=85))


def _small_sound(path: Path) -> str:
    """Return the first half minute of a sound as base64 Ogg."""
    import soundfile

    from cotune.data.sound import load_sound

    mono = load_sound(path, sample_rate=_SOUND_RATE, max_seconds=_SOUND_SECONDS)
    return _encoded(lambda stream: soundfile.write(stream, mono, _SOUND_RATE, format="OGG", subtype="VORBIS"))


def _encoded(save: Save) -> str:
    stream = io.BytesIO()
    save(stream)
    return base64.b64encode(stream.getvalue()).decode()


def _table(table: Printed) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<div class="wide"><table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{notes}"
    )
