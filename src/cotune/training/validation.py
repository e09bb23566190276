"""How a run is watched while it learns: by answers to the validation samples, or by the loss on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cotune.errors import DataError
from cotune.evaluation.tasks import TASKS
from cotune.messages import Sample
from cotune.trace import Trace
from cotune.training.model_and_data import Prepared
from cotune.training.routing_record import record_routing

# Evaluates the model, records it under a step, and prints it.
Evaluate = Callable[[Trace, int], None]


def make_validation(prepared: Prepared) -> Evaluate | None:
    """Return what evaluates a run between steps; None without validation samples.

    Raises:
        DataError: when the recipe wants the loss on validation samples and there are none.
    """
    samples = _validation_samples(prepared)
    if prepared.recipe.evaluation.held_out_loss:
        return lambda trace, step: _tell(prepared, step, {"loss": _record_loss(prepared, samples, trace, step)})
    return (
        (lambda trace, step: _tell(prepared, step, _record_scores(prepared, samples, trace, step))) if samples else None
    )


def final_held_out_loss(prepared: Prepared, trace: Trace, step: int) -> float | None:
    """Return and record the loss on the validation samples at the end; None where the recipe does not ask for it."""
    if not prepared.recipe.evaluation.held_out_loss:
        return None
    return _record_loss(prepared, _validation_samples(prepared), trace, step)


def _validation_samples(prepared: Prepared) -> Sequence[Sample]:
    settings = prepared.recipe.evaluation
    samples = prepared.samples.validation[: settings.validation_limit]
    if settings.held_out_loss and not samples:
        raise DataError("no held-out samples", ["evaluation.held_out_loss needs some: raise data.validation_share"])
    return samples


def _tell(prepared: Prepared, step: int, found: dict[str, float | None]) -> None:
    """Print what validation found, the main score first."""
    main = TASKS[prepared.recipe.evaluation.task].main
    names = sorted(found, key=lambda name: name != main)
    shown = ", ".join(f"{name} {value:.3f}" for name in names if (value := found[name]) is not None)
    prepared.console.print(f"step {step}: validation {shown}")


def _record_loss(prepared: Prepared, samples: Sequence[Sample], trace: Trace, step: int) -> float:
    loss = prepared.held_out_loss(samples)
    trace.write("held_out", step, loss=loss, samples=len(samples))
    record_routing(prepared.model, trace, step)
    return loss


def _record_scores(prepared: Prepared, samples: Sequence[Sample], trace: Trace, step: int) -> dict[str, float | None]:
    scores = prepared.evaluate(samples, "Validating")[0]
    trace.write("validation", step, scores=scores)
    record_routing(prepared.model, trace, step)
    return scores
