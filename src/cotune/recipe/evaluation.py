"""The recipe's section on evaluation: how answers are generated, what they are scored by, and further tasks."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from cotune.recipe.section import Part

# What names a folder, of one word.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ScoredTask(Part):
    """A task that a run is scored by at its end, and while it learns every `every` steps.

    `task` is one of `cotune tasks`, `data` its official files (the recipe's `data.test` when null), `media` the folder
    of their pictures or sounds where they lie apart. `options` takes the likeliest lettered option as well. A null
    `limit` or `batch_size` is that of the section, a null `max_new_tokens` the task's. `name` (the task's when null)
    tells two entries of one task apart. Where nothing but the task is said, its name alone may stand for it.
    """

    task: str
    name: Annotated[str, Field(pattern=_NAME)] | None = None
    data: str | None = None
    media: str | None = None
    limit: PositiveInt | None = None
    options: bool = False
    batch_size: PositiveInt | None = None
    max_new_tokens: PositiveInt | None = None
    every: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _task_alone(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """What the entry is called in tables, and the name of its folder."""
        return self.name or self.task


class Evaluation(Part):
    """How answers are generated and scored.

    With `held_out_loss` a run is watched by its loss on the validation samples, every `training.evaluate_every` steps
    and at its end, in place of answers generated for them: that costs one forward. `text_file` is the held-out text
    whose loss is taken before and after (one of cotune's own when null). `tasks` are scored at the end of the run,
    beside `task` on `data.test`, and every `tasks_every` steps while it learns (never when null).
    """

    task: str = "exact-match"
    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt = 16
    validation_limit: PositiveInt = 500
    limit: PositiveInt | None = None
    held_out_loss: bool = False
    text_retention: bool = True
    text_file: str | None = None
    tasks: list[ScoredTask] = Field(default_factory=list)
    tasks_every: PositiveInt | None = None

    @model_validator(mode="after")
    def _tasks_can_be_told_apart(self) -> Evaluation:
        several = [label for label, count in Counter(entry.label for entry in self.tasks).items() if count > 1]
        if several:
            raise ValueError(
                f"tasks named {', '.join(several)} stand there more than once; give each a `name` of its own"
            )
        if self.tasks_every is not None and not self.tasks:
            raise ValueError("tasks_every is set, but there are no tasks to score; name them in evaluation.tasks")
        return self

    def due(self, step: int) -> list[ScoredTask]:
        """Return the tasks that are scored after a step, before the last one."""
        every = [(entry, entry.every or self.tasks_every) for entry in self.tasks]
        return [entry for entry, steps in every if steps is not None and step > 0 and step % steps == 0]
