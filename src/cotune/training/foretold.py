"""What the estimate foretold, beside what the run took: in every result, so that it can be trusted or not."""

from __future__ import annotations

from typing import Any

from cotune.training.estimate import Estimate


def compare(
    found: Estimate | None, *, held_before: int, peak: int, on_gpu: bool, tokens: int, steps: int, seconds: float
) -> dict[str, Any] | None:
    """Return estimated and real memory in bytes, operations, and the operations per second that were kept up.

    `held_before` is what the process held before the models were loaded: on a CPU the rest of Python counts as memory
    too. Operations are those of the estimate, in proportion to the `tokens` really seen. None without an estimate.
    """
    if found is None:
        return None
    size = found.memory.range
    taken = peak if on_gpu else peak - held_before
    operations = None
    if found.operations is not None:
        per_token = found.operations.step / (found.assumed.batch_size * found.assumed.tokens)
        operations = round(per_token * tokens)
    return {
        "memory_low_bytes": None if size is None else size.low,
        "memory_expected_bytes": None if size is None else size.expected,
        "memory_high_bytes": None if size is None else size.high,
        "memory_taken_bytes": taken if taken > 0 else None,
        "on_gpu": on_gpu,
        "operations": operations,
        "step_seconds": seconds / steps if steps else None,
        "tflops_kept_up": None if operations is None or not seconds else operations / seconds / 1e12,
    }


def sentence(compared: dict[str, Any] | None) -> str | None:
    """Return the comparison for the screen, None when there is nothing to compare."""
    if compared is None:
        return None
    told = []
    expected, taken = compared["memory_expected_bytes"], compared["memory_taken_bytes"]
    if expected and taken:
        told.append(f"memory {expected / 2**30:.2f} GiB expected, {taken / 2**30:.2f} taken ({taken / expected:.2f}x)")
    if compared["tflops_kept_up"]:
        told.append(
            f"{compared['operations']:.3g} operations, {compared['tflops_kept_up']:.3g} TFLOP/s kept up (for --tflops)"
        )
    return f"Estimate: {'; '.join(told)}" if told else None
