"""Reads recipes: YAML plus `key=value` overrides to one checked object, every problem named at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cotune.errors import RecipeError, nearest
from cotune.plain_yaml import load_yaml
from cotune.recipe import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a YAML file with `key=value` overrides applied.

    Raises:
        RecipeError: naming every unknown key (with the nearest known one) and every bad value.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read", [str(error)]) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML", [" ".join(str(error).split())]) from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe", ["the file must hold keys such as name, model, data, training"])
    return parse_recipe(content, overrides, where=str(path))


def parse_recipe(content: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Return the recipe a mapping describes, overrides applied; raises RecipeError with every problem at once."""
    content = deepcopy(content)
    problems = [problem for override in overrides if (problem := _apply(content, override))]
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors()]
    if problems:
        raise RecipeError(where, problems)
    return recipe


def _apply(content: dict[str, Any], override: str) -> str | None:
    """Set one dotted `key=value` in place; return what is wrong with it, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"'{override}': an override is written key=value, for example training.steps=500"
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        return f"'{override}': the value is not YAML; quote it"
    *path, last = key.split(".")
    target: Any = content
    for name in path:
        target = _descend(target, name)
        if target is None:
            return f"'{override}': '{name}' in '{key}' is not a section of the recipe"
    if isinstance(target, list) and not (last.isdigit() and int(last) < len(target)):
        return f"'{override}': '{last}' is not an index of a list with {len(target)} entries"
    if not isinstance(target, dict | list):
        return f"'{override}': the key before '{last}' holds a value, not a section"
    if isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    return None


def _descend(target: Any, name: str) -> Any:
    """Return the child of a section or list, making a missing section; None when there is none."""
    if isinstance(target, list):
        return target[int(name)] if name.isdigit() and int(name) < len(target) else None
    if not isinstance(target, dict):
        return None
    if target.get(name) is None:
        target[name] = {}
    return target[name]


def _describe(item: Any) -> str:
    """Return one validation error in plain words, with the nearest known key for an unknown one."""
    location = ".".join(str(step) for step in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1])
        return f"{location}: unknown key{nearest(str(item['loc'][-1]), known)}"
    if item["loc"][-1:] == ("[key]",) and item["type"] == "literal_error":
        known = re.findall("'([^']+)'", item["ctx"]["expected"])
        return f"{location.removesuffix('.[key]')}: unknown key{nearest(str(item['input']), known)}"
    if item["type"] == "missing":
        return f"{location}: required, but missing"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict | list | BaseModel) else f" (got {item['input']!r})"
    return f"{location}: {message}{shown}" if location else f"{message}{shown}"


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Return the known keys of the section at a location of the recipe."""
    section: Any = Recipe
    for step in location:
        if isinstance(step, str) and step in section.model_fields:
            section = _section_type(section.model_fields[step].annotation)
    return list(section.model_fields)


def _section_type(annotation: Any) -> Any:
    """Return the section class inside an annotation such as `Encoder | None` or `list[Source]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    inner = [found for argument in get_args(annotation) if (found := _section_type(argument)) is not None]
    return next((found for found in inner if isinstance(found, type) and issubclass(found, BaseModel)), None)
