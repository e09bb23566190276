"""The folder of one run: where each file lies, and when a folder may be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.errors import RunFolderError
from cotune.recipe import Recipe
from cotune.recipe.reading import load_recipe
from cotune.whole_file import write_whole


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run: `recipe.yaml`, `trace.jsonl`, `adapter/`, `result.json`, pictures, `snapshots/`."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def begun_with(self) -> Path:
        """Fingerprints of the data the run was begun on, and what was changed since."""
        return self.path / "begun-with.json"

    @property
    def trace(self) -> Path:
        """The record of the run."""
        return self.path / "trace.jsonl"

    @property
    def adapter(self) -> Path:
        """The trained weights."""
        return self.path / "adapter"

    @property
    def result(self) -> Path:
        """The scores and costs."""
        return self.path / "result.json"

    @property
    def snapshots(self) -> Path:
        """What `--resume` goes on from."""
        return self.path / "snapshots"

    def check_free(self) -> None:
        """Raise RunFolderError when the folder holds something already."""
        if self._holds_something():
            raise RunFolderError(
                f"{self.path} exists already. Go on with it by --resume, replace it by --overwrite, or choose another "
                "folder by output=FOLDER"
            )

    def create(self, recipe: Recipe) -> None:
        """Make the folder and write the resolved recipe; raises RunFolderError when it is taken or not writable."""
        self.check_free()
        write_whole(self.recipe, recipe.to_yaml())

    def clear(self) -> None:
        """Remove what a run left here; a folder that holds no run is refused."""
        if not self._holds_something():
            return
        if not self.recipe.exists():
            raise RunFolderError(f"{self.path} is not a run folder (no recipe.yaml); it is not overwritten")
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be removed: {error}") from error

    def set_aside(self) -> Path | None:
        """Rename an existing run to the first free `NAME.1`, `NAME.2` ...; returns where it went."""
        if not self.path.exists():
            return None
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(target)
        return target

    def check_resume(self) -> None:
        """Raise RunFolderError when there is no interrupted run here to go on with."""
        if not self.recipe.exists():
            raise RunFolderError(f"{self.path} holds no run to resume; start it without --resume")
        if self.result.exists():
            raise RunFolderError(f"{self.path} is finished; score it again with: cotune evaluate {self.path}")

    def changed_keys(self, recipe: Recipe) -> list[str]:
        """Return the keys in which a recipe differs from the one the run that lies here was started with."""
        return _changed_keys(load_recipe(self.recipe).model_dump(mode="json"), recipe.model_dump(mode="json"))

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise RunFolderError when the run that lies here was started with another recipe."""
        changed = self.changed_keys(recipe)
        if changed:
            raise RunFolderError(
                f"{self.path} was started with another recipe; a resumed run would not be the run it claims to be. "
                f"Changed: {', '.join(changed)}. Start a new run with output=FOLDER, or go on all the same with "
                "--allow-changed, which is recorded"
            )

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`."""
        write_whole(self.result, json.dumps(result, indent=2) + "\n")

    def read_result(self) -> dict[str, Any]:
        """Return `result.json`; raises RunFolderError when the run has none."""
        try:
            content: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunFolderError(f"{self.path}: no readable result.json ({error}); was the run finished?") from None
        return content

    def _holds_something(self) -> bool:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file, not a folder; choose another folder by output=FOLDER")
        return self.path.exists() and any(self.path.iterdir())


def open_run(path: Path) -> tuple[RunFolder, Recipe]:
    """Return the folder and recipe of a finished or interrupted run; raises RunFolderError when it is none."""
    run = RunFolder(path)
    if not run.recipe.exists():
        raise RunFolderError(f"{path} is not a run folder: it holds no recipe.yaml")
    return run, load_recipe(run.recipe)


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return a short name for every folder: its own, with its parents' as far as they are needed to tell them apart.

    Raises:
        RunFolderError: when a folder is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise RunFolderError(f"a run folder is named twice: {', '.join(map(str, folders))}")
    deepest = max((len(path.parts) for path in paths), default=1)
    tried = (["/".join(path.parts[-depth:]) for path in paths] for depth in range(1, deepest + 1))
    return next(names for names in tried if len(set(names)) == len(names))


def _changed_keys(before: Any, now: Any, prefix: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [found for key in keys for found in _changed_keys(before.get(key), now.get(key), f"{prefix}.{key}")]
    return [] if before == now else [prefix.removeprefix(".")]
