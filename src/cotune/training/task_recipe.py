"""A run's recipe with another task, other data and other lengths of answers in place of its own."""

from __future__ import annotations

from pathlib import Path

from cotune.evaluation.task_data import find_task_data
from cotune.evaluation.tasks import TASKS, check_task
from cotune.quickstart import resolve
from cotune.recipe import Recipe, Source


def recipe_for(
    recipe: Recipe,
    *,
    task: str | None = None,
    data: Path | None = None,
    media: Path | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> Recipe:
    """Return a copy of the recipe that is scored as is wanted; what is None stays as it is.

    Another task brings its own longest answer.

    Raises:
        ModelError: for an unknown task.
        DataError: when a task's files are not in the folder.
    """
    recipe = recipe.model_copy(deep=True)
    settings = recipe.evaluation
    if task is not None and task != settings.task:
        check_task(task)
        settings.task, settings.max_new_tokens = task, TASKS[task].max_new_tokens
    check_task(settings.task)
    settings.limit = limit if limit is not None else settings.limit
    settings.max_new_tokens = max_new_tokens or settings.max_new_tokens
    if data is not None:
        recipe.data.test = [_source(recipe, settings.task, data, media)]
    return recipe


def _source(recipe: Recipe, task: str, data: Path, media: Path | None) -> Source:
    """Return a task's data as a source, read with the options that the recipe reads its own with."""
    known = TASKS[task]
    path = find_task_data(task, Path(resolve(str(data))))
    own = next(
        (s.options for s in (*recipe.data.test, *recipe.data.train) if s.reader and s.reader == known.reader), {}
    )
    return Source(
        path=str(path),
        reader=known.reader,
        options={**own, **known.reader_options},
        media=None if media is None else str(media),
    )
