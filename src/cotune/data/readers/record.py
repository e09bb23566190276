"""A record of a data file: one object with its place, its id and checked access to its keys."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cotune.data.media_store import StoreError, fetch, keep_data_url
from cotune.data.readers.base import Problems
from cotune.messages import MEDIA_OF_PART, Audio, Image

MediaType = type[Image] | type[Audio]
Medium = TypeVar("Medium", bound=Image | Audio)

MEDIA_KEYS = ("image", "images", "video", "videos", "audio", "audios")

# Two letters at least, so that a drive letter is not taken for the scheme of a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(slots=True)
class Record:
    """One object of a JSON file; `sound` turns false with the first problem noted about it."""

    fields: dict[str, Any]
    origin: str
    number: int
    problems: Problems
    sound: bool = True

    @property
    def id(self) -> str:
        """The record's own `id`, or its number in the file."""
        own = self.fields.get("id")
        return str(self.number) if own is None or own == "" else str(own)

    def wrong(self, message: str) -> None:
        """Note a problem under this record's place and id."""
        self.sound = False
        self.problems.add(self.origin, message, sample=self.id)

    def text(self, key: str, holder: Mapping[str, Any] | None = None, *, where: str = "") -> str:
        """Return the text under `key` of the record (or of `holder`, a part of it); anything else is a problem."""
        holder = self.fields if holder is None else holder
        value = holder.get(key)
        if not isinstance(value, str):
            place = f"{where}: " if where else ""
            found = f"holds {kind_of(value)}" if key in holder else "is missing"
            self.wrong(f"{place}key '{key}' {found}; text is expected")
            return ""
        return value

    def optional_text(self, key: str) -> str:
        """Return the text under `key`, empty when the key is missing or null."""
        return "" if self.fields.get(key) is None else self.text(key)

    def objects(self, key: str) -> list[dict[str, Any]]:
        """Return the non-empty list of objects under `key`; anything else is a problem."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not value:
            found = "an empty list" if value == [] else kind_of(value) if key in self.fields else "nothing"
            self.wrong(f"key '{key}' holds {found}; a list of objects is expected")
            return []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                self.wrong(f"{key}[{index}] holds {kind_of(item)}; an object is expected")
        return [item for item in value if isinstance(item, dict)]

    def texts(self, key: str) -> list[str]:
        """Return the list of texts under `key`; anything else is a problem."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(f"key '{key}' {'is no list of texts' if key in self.fields else 'is missing'}; one is expected")
            return []
        return value

    def medium(self, kind: type[Medium], name: object, root: Path) -> Medium:
        """Return the image or sound of that name below `root`.

        A path that leaves `root` and a URL are problems unless `problems.access` allows them; what a URL of the scheme
        `data:` holds, and what one of the web leads to, is kept as a file of the cache.
        """
        called = MEDIA_OF_PART[kind]
        if isinstance(name, Path):  # no text of the data, but a file that was made of its bytes
            return kind(name)
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            self.wrong(f"an {called} file is named {_shorten(repr(name))}; the path of a file is expected")
            return kind(root)
        if _URL.match(name):
            return kind(self._from_url(name, root))
        # By the text of the path alone: a link below the root was put there on purpose, `..` in data was not.
        relative = os.path.relpath(name, root) if Path(name).is_absolute() else os.path.normpath(name)
        outside = relative in (os.curdir, os.pardir) or relative.startswith(os.pardir + os.sep)
        if outside and not self.problems.access.outside_root:
            self.wrong(
                f"{called} '{name}' lies outside the media folder {root}; set `media` to a folder that holds it, "
                "or data.allow_outside_root=true"
            )
        return kind(Path(os.path.normpath(root / relative)) if outside else root / relative)

    def _from_url(self, url: str, root: Path) -> Path:
        """Return the file that holds what a URL leads to; one that may not be read, or cannot be, is a problem."""
        try:
            if url.startswith("data:"):
                return keep_data_url(url)
            if self.problems.access.urls:
                return fetch(url)
            self.wrong(
                f"'{_shorten(url)}' is a URL, and URLs are not fetched; save the file and give its path, "
                "or set data.allow_urls=true"
            )
        except StoreError as error:
            self.wrong(f"'{_shorten(url)}': {error}")
        return root

    def media(self, kind: type[Medium], key: str, root: Path) -> list[Medium]:
        """Return the images or sounds that the key names, one or a list of them; none when it is missing or null."""
        names = self.fields.get(key)
        names = names if isinstance(names, list) else [] if names is None else [names]
        return [self.medium(kind, name, root) for name in names]

    def meta(self, used: Collection[str]) -> dict[str, str]:
        """Return the plain values among the unused keys, to group samples by; other unused keys are counted.

        An unused key that names media is a problem: the sample would be learned without its picture or sound.
        """
        meta: dict[str, str] = {}
        for key, value in self.fields.items():
            if key in used or key == "id" or value is None or value in ([], {}, ""):
                continue
            if key in MEDIA_KEYS:
                self.wrong(f"key '{key}' names media that this format cannot use; remove it or choose another reader")
            elif isinstance(value, str | int | float):
                meta[key] = str(value)
            else:
                self.problems.count(f"records whose key '{key}' is not used")
        return meta


def as_record(value: object, origin: str, number: int, problems: Problems) -> Record | None:
    """Return an object as a record; anything else is noted as a problem."""
    if isinstance(value, dict):
        return Record(value, origin, number, problems)
    problems.add(origin, f"a record holds {kind_of(value)}; an object with keys is expected")
    return None


def _shorten(text: str) -> str:
    """Return the text, cut where it gets too long for one line of a report."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def kind_of(value: object) -> str:
    """Return what a JSON value is, in plain words."""
    if value is None:
        return "null"
    if value == "":
        return "empty text"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
