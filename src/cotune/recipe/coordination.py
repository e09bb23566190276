"""The recipe's section on coordination: rule, measurement, diagnosis and regulariser."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from cotune.recipe.section import NonNegative, Part, Positive, ShareBelowOne

_ITSELF = ("current", "now", "own", "self", "step")


class Diagnosis(Part):
    """When the diagnosis speaks; `cotune.coordination.report.DiagnosisSettings` says what each threshold means."""

    window: Annotated[int, Field(ge=2)] = 20
    insufficient: float = 0.9
    biased: float = 4.0
    share: float = 2 / 3
    moving_loss: float = 1e-3
    target_loss: float | None = None
    alternating: float = -0.3
    swing: float = 4.0
    opposed: float = -0.5
    saturated: float = 0.3
    memory: ShareBelowOne = 0.97


class Regularizer(Part):
    """Rewards predictions that change, so that no component stops learning; off while `weight` is 0.

    `cotune.coordination.regularizer_settings.RegularizerSettings` says what each option means. The weight decays to
    zero at the run's end, unless `decay` is constant.
    """

    weight: NonNegative = 0.0
    form: Literal["saturating", "js", "unbounded"] = "saturating"
    reference: Literal["last_epoch", "repeat", "accum", "probe"] = "last_epoch"
    target: Positive | None = None
    cap: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.1
    project: bool = False
    kept: PositiveInt = 64
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    decay: Literal["constant", "linear", "cosine"] = "linear"
    by_balance: bool = False

    @field_validator("reference", mode="before")
    @classmethod
    def _is_no_prediction_of_this_step(cls, value: Any) -> Any:
        if value in _ITSELF:
            raise ValueError(
                "compared with itself a prediction has a gradient of exactly zero, and the regulariser would do "
                "nothing; choose last_epoch, repeat, accum or probe"
            )
        return value


class Coordination(Part):
    """The rule that multiplies the components' rates while they learn, and how the balance is measured.

    Every `measure_every` steps (0: never) the first `probe` samples of the batch (null: 2) tell what the step of either
    side alone did to the predictions, by `divergence`. `connector` says which side the connector counts as. The rule
    `prodigy` is an optimiser that finds every component's rate by itself; `components.*.rate` then say nothing.
    `estimate` follows the balance at the steps between, for the trace; no rule steers by it.
    """

    rule: str = "constant"
    options: dict[str, Any] = Field(default_factory=dict)
    measure_every: Annotated[int, Field(ge=0)] = 20
    probe: PositiveInt | None = None
    divergence: Literal["kl", "js", "squared-hellinger", "hellinger", "tv"] = "kl"
    connector: Literal["features", "language", "own"] = "features"
    estimate: bool = False
    diagnosis: Diagnosis = Diagnosis()
    regularizer: Regularizer = Regularizer()

    def regularizer_problems(self, steps: int, micro_batch_size: int | None) -> list[str]:
        """Return under which other settings the regulariser, where it is on, would have nothing to do."""
        found = self.regularizer
        if not found.weight:
            return []
        problems = []
        if found.warmup_steps >= steps:
            problems.append(f"warmup_steps ({found.warmup_steps}) must be below training.steps ({steps})")
        if found.reference == "probe" and not self.measure_every:
            problems.append("reference=probe looks ahead at measured steps, and coordination.measure_every is 0")
        if found.reference == "accum" and not micro_batch_size:
            problems.append(
                "reference=accum carries a micro-batch over to the next step; set training.micro_batch_size"
            )
        return problems
