"""JSON and JSONL files: their records, their first keys, and the one object that some hold.

A file that starts with `[` is one JSON list; any other is read as JSONL, one object per line.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cotune.data.readers.base import Problems
from cotune.data.readers.record import Record, as_record, kind_of

PEEKED_BYTES = 65_536

# A whole string (and whether it is a key), a brace, or the quote of a string that was cut off.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}]|"', re.DOTALL)


def read_records(path: Path, problems: Problems) -> Iterator[Record]:
    """Yield the objects of a JSON list or JSONL file; whatever is not an object is noted as a problem."""
    start = peek(path)
    if not start:
        problems.add(str(path), "the file is empty; a list of objects or one object per line is expected")
        return
    for number, origin, value in _list_items(path, problems) if start[0] == "[" else _lines(path, problems):
        record = as_record(value, origin, number, problems)
        if record is not None:
            yield record


def missing_keys(path: Path, *wanted: str) -> str:
    """Return what keeps the first record of a JSON list or JSONL file from holding the keys, empty when it has all."""
    if not path.is_file():
        return "a folder, not a file" if path.is_dir() else "there is no such file"
    keys = first_keys(path)
    if not keys:
        return "no JSON list or JSONL of objects"
    missing = [key for key in wanted if key not in keys]
    found = ", ".join(sorted(keys)[:8])
    return f"the first record has no {' and no '.join(map(repr, missing))} (its keys: {found})" if missing else ""


def first_keys(path: Path) -> frozenset[str]:
    """Return the keys of the first object of a JSON list or JSONL file, as far as its first bytes show them."""
    if not path.is_file():
        return frozenset()
    start = peek(path)
    keys: set[str] = set()
    depth = 0
    for token in _TOKEN.finditer(start) if start[:1] in ("[", "{") else ():
        if token[0] == '"':  # cut off here; each quote in the rest would be searched for its end once more
            break
        depth += (token[0] == "{") - (token[0] == "}")
        if depth == 0:
            break
        if depth == 1 and token[2]:
            keys.add(token[1])
    return frozenset(keys)


def read_object(path: Path, problems: Problems) -> dict[str, Any]:
    """Return the one object a JSON file holds; when it holds none, note why and return an empty one."""
    if not path.is_file():
        problems.add(str(path), "the file is missing; give the folder that holds it")
        return {}
    sound, value = parse_json(path.read_bytes(), path, 1, problems)
    if sound and not isinstance(value, dict):
        problems.add(str(path), f"the file holds {kind_of(value)}; an object with keys is expected")
    return value if isinstance(value, dict) else {}


def listed_objects(content: Mapping[str, Any], key: str, path: Path, problems: Problems) -> Iterator[Record]:
    """Yield the objects of the list under a key of a file's one object; anything else is noted as a problem."""
    items = content.get(key)
    if not isinstance(items, list):
        if content:  # without content that problem is noted already
            problems.add(str(path), f"key '{key}' holds {kind_of(items)}; a list of objects is expected")
        return
    for number, item in enumerate(items, start=1):
        record = as_record(item, f"{path}:{key}[{number - 1}]", number, problems)
        if record is not None:
            yield record


def peek(path: Path) -> str:
    """Return the first bytes of a file as text, without the space in front."""
    with path.open("rb") as file:
        return _decode_start(file.read(PEEKED_BYTES)).lstrip()


def peek_end(path: Path) -> str:
    """Return the last bytes of a file as text."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - PEEKED_BYTES))
        return _decode_start(file.read())


def _decode_start(start: bytes) -> str:
    """Return the first bytes of a file as text, whatever they are."""
    return start.decode("utf-8-sig", errors="replace")


def _list_items(path: Path, problems: Problems) -> Iterator[tuple[int, str, Any]]:
    """Yield number, place and value of each item of a file that holds one JSON list."""
    sound, items = parse_json(path.read_bytes(), path, 1, problems)
    for number, item in enumerate(items if sound else [], start=1):
        yield number, f"{path}:record {number}", item


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, str, Any]]:
    """Yield number, place and value of each line that is not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.strip()
            if number == 1 and content.removeprefix(BOM_UTF8) == b"{":
                problems.add(f"{path}:1", "one object over several lines; a list, or one object per line, is expected")
                return
            if not content:
                continue
            sound, value = parse_json(content, path, number, problems)
            if sound:
                yield number, f"{path}:{number}", value


def parse_json(content: bytes, path: Path, first_line: int, problems: Problems) -> tuple[bool, Any]:
    """Return true and the JSON value of some bytes of a file, or note why there is none and return false."""
    try:
        return True, json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        problems.add(f"{path}:{line}", f"not UTF-8 text ({error.reason}); save the file as UTF-8")
    except json.JSONDecodeError as error:
        problems.add(f"{path}:{first_line + error.lineno - 1}", f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        problems.add(f"{path}:{first_line}", f"JSON that cannot be read: {error}")
    return False, None
