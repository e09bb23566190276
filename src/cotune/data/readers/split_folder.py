"""Data sets of the ScienceQA family: a folder with `problems.json`, `pid_splits.json` and a folder of pictures.

The path names a split of that folder: `FOLDER/train` or any other key of `pid_splits.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotune.data.readers.base import Problems
from cotune.data.readers.json_files import first_keys, read_object
from cotune.data.readers.record import Record
from cotune.data.science_qa import LETTERS
from cotune.errors import nearest

PROBLEMS = "problems.json"
SPLITS = "pid_splits.json"
# IconQA has one split for each of its tasks: `choose_txt_train` and so on.
ICON_QA_TASKS = ("choose_img", "choose_txt", "fill_in_blank")
IN_NO_SPLIT = "problems that stand in no split, not read"


def folder_and_split(path: Path) -> tuple[Path, str | None]:
    """Return the folder of the data set and the split the path names, if it names one."""
    names_split = not path.is_file() and not (path / PROBLEMS).is_file() and (path.parent / PROBLEMS).is_file()
    return (path.parent, path.name) if names_split else (path, None)


def missing_files(path: Path) -> str:
    """Return which of the two files the folder, or the folder that the path names a split of, lacks."""
    folder, _ = folder_and_split(path)
    missing = [name for name in (PROBLEMS, SPLITS) if not (folder / name).is_file()]
    return f"no {' and no '.join(missing)} in it" if missing else ""


def has_splits_of(path: Path, *prefixes: str) -> bool:
    """Return whether the first names of the folder's splits begin with one of the prefixes."""
    folder, _ = folder_and_split(path)
    return any(name.startswith(prefixes) for name in first_keys(folder / SPLITS))


def read_splits(file: Path, known: dict[str, Any], problems: Problems) -> dict[str, list[str]]:
    """Return the problems of each split in the order of the file, and count those that stand in none."""
    splits = read_object(file, problems)
    for key, value in splits.items():
        if not isinstance(value, list):
            problems.add(str(file), f"key '{key}': a list of problems is expected")
            return {}
    unread = len(known.keys() - {str(name) for value in splits.values() for name in value})
    if unread:
        problems.count(IN_NO_SPLIT, unread)
    return {key: [str(name) for name in value] for key, value in splits.items()}


def split_names(splits: dict[str, list[str]], split: str | None, file: Path, problems: Problems) -> list[str]:
    """Return the problems of one split; none, with a problem noted, when there is no such split or none is named."""
    if not splits:  # that problem is noted already
        return []
    if split is None:
        paths = " or ".join(f"{file.parent / key}" for key in splits)
        problems.add(str(file.parent), f"no split is named; write {paths}")
        return []
    if split not in splits:
        problems.add(str(file), f"there is no split '{split}'{nearest(split, list(splits))}")
        return []
    return splits[split]


def problem_record(
    folder: Path, split: str | None, name: str, known: dict[str, Any], problems: Problems
) -> Record | None:
    """Return the record of a problem, or None with a problem noted when there is none."""
    if name not in known:
        problems.add(f"{folder / SPLITS}:{split}", f"{PROBLEMS} has no such problem; remove it here", sample=name)
        return None
    origin, fields = f"{folder / PROBLEMS}:problem {name}", known[name]
    if not isinstance(fields, dict):
        problems.add(origin, "an object with keys is expected", sample=name)
        return None
    return Record({**fields, "id": name}, origin, 0, problems)


def choices_of(record: Record) -> tuple[str, ...]:
    """Return the choices; anything but a list of texts that letters can name is a problem."""
    value = record.fields.get("choices")
    sound = isinstance(value, list) and 2 <= len(value) <= len(LETTERS)
    if not isinstance(value, list) or not sound or not all(isinstance(item, str) and item.strip() for item in value):
        record.wrong(f"key 'choices': a list of 2 to {len(LETTERS)} texts is expected")
        return ()
    return tuple(value)


def answer_index(record: Record, choices: int, key: str = "answer") -> int:
    """Return the index of the right choice; one that is none of them is a problem."""
    value = record.fields.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < choices:
        return value
    if choices:  # without choices that problem is noted already
        record.wrong(f"key '{key}' holds {value!r}; the index of a choice, 0 to {choices - 1}, is expected")
    return 0
