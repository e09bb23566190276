"""The whole recipe, and what must hold between its sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cotune.plain_yaml import dump_yaml
from cotune.recipe.coordination import Coordination
from cotune.recipe.data import Data
from cotune.recipe.evaluation import Evaluation
from cotune.recipe.model import COMPONENT_MEDIUM, Components, Model
from cotune.recipe.section import Part
from cotune.recipe.training import Training


class Recipe(Part):
    """Everything about one run."""

    name: Annotated[str, Field(min_length=1)]
    seed: int = 0
    output: str | None = None
    model: Model
    components: Components = Components()
    data: Data
    training: Training
    coordination: Coordination = Coordination()
    evaluation: Evaluation = Evaluation()

    @property
    def folder(self) -> Path:
        """The run folder: `output`, or `runs/NAME`."""
        return Path(self.output) if self.output else Path("runs") / self.name

    @model_validator(mode="after")
    def _probe_fits_batch(self) -> Recipe:
        if (self.coordination.probe or 0) > self.training.batch_size:
            raise ValueError(
                f"coordination.probe ({self.coordination.probe}) is larger than training.batch_size "
                f"({self.training.batch_size}): the probe is a part of the batch"
            )
        return self

    @model_validator(mode="after")
    def _budgets_hold_the_longest_sample(self) -> Recipe:
        training, longest = self.training, self.data.max_tokens
        for key in ("batch_tokens", "micro_batch_tokens"):
            budget = getattr(training, key)
            if budget is not None and budget < longest:
                raise ValueError(
                    f"training.{key} ({budget}) is below data.max_tokens ({longest}): a sample of that length would "
                    "not fit; lower data.max_tokens, which says what becomes of longer ones (data.too_long)"
                )
        limit = training.micro_batch_tokens
        if limit is not None and training.pack_tokens is not None and training.pack_tokens > limit:
            raise ValueError(
                f"training.pack_tokens ({training.pack_tokens}) is above training.micro_batch_tokens ({limit}): a full "
                "row would not fit; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _regularizer_has_something_to_do(self) -> Recipe:
        regularizer = self.coordination.regularizer
        problems = self.coordination.regularizer_problems(self.training.steps, self.training.micro_batch_size)
        dropping = [name for name, dropout in self._dropouts.items() if dropout]
        if regularizer.weight and regularizer.reference != "probe" and dropping:
            problems.append(f"dropout would count as change; set {', '.join(f'{name}=0' for name in dropping)}")
        if problems:
            raise ValueError(f"coordination.regularizer: {'; '.join(problems)}")
        return self

    @property
    def _dropouts(self) -> dict[str, float]:
        """The dropout of the adapters that learn, by its key."""
        found = {} if self.components.llm.tune == "frozen" else {"model.llm": self.model.llm.adapters.dropout}
        for component, medium in COMPONENT_MEDIUM.items():
            encoder = self.model.encoders.by_medium.get(medium)
            if encoder is not None and getattr(self.components, component).tune != "frozen":
                found[f"model.encoders.{medium}"] = encoder.adapters.dropout
        return {f"{key}.adapters.dropout": dropout for key, dropout in found.items()}

    @model_validator(mode="after")
    def _quantized_base_stays_frozen(self) -> Recipe:
        if self.model.llm.quantize and self.components.llm.tune == "full":
            raise ValueError("components.llm.tune: a quantised base (model.llm.quantize) cannot be tuned in full")
        return self

    @model_validator(mode="after")
    def _components_exist(self) -> Recipe:
        for component, medium in COMPONENT_MEDIUM.items():
            if medium not in self.model.encoders.by_medium and getattr(self.components, component).tune != "frozen":
                raise ValueError(
                    f"components.{component}.tune is set, but the recipe names no {medium} encoder "
                    f"(model.encoders.{medium})"
                )
        return self

    def to_yaml(self) -> str:
        """Return the resolved recipe, every default written out."""
        return dump_yaml(self.model_dump(mode="json"))
