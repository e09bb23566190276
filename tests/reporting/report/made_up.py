"""Run folders made up by hand, with everything a report can show, and with things that must not be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from cotune.evaluation.prediction import Prediction
from cotune.evaluation.tasks import write_predictions
from cotune.trace import Trace

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"q\" $title 'x' | `a`\n# b"
GIB = 2**30
WEIGHTS = {"layers.0": [[0.0, 0.0], [0.25, 0.75]], "layers.1": [[0.5, 0.5], [1.0, 0.0]]}

RECIPE = """name: made-up
model:
  llm: {path: owner/model, routing: {mode: soft, text: base}}
  encoders: {image: {path: /secret/place/encoder}, audio: null}
components: {vision: {tune: frozen}, llm: {tune: adapters}}
data: {train: [{path: 'hub:owner/data'}]}
training: {steps: 20, skipped_in_a_row: 3}
coordination: {rule: feedforward, measure_every: 2}
evaluation: {task: easy-vqa}
"""


def balance(step: int, *, biased: bool = False) -> dict[str, Any]:
    """Return what a measured step holds."""
    diagnosis = {
        "exponent": 2,
        "rejected_share": 0.0,
        "log_kappa": step / 10,
        "log_kappa_median": 3.0,
        "biased": biased,
        "alternating": False,
        "noise_known": False,
        "flip_rate": 0.0,
        "components": {"features": {"divergence": 1e-3, "change": 0.01, "insufficient": False}},
    }
    return {
        "log_kappa": step / 10,
        "divergence": {"features": 1e-3, "language": 2e-3},
        "multipliers": {"llm": 0.5, "connector": 2.0},
        "diagnosis": diagnosis,
    }


def write_trace(
    folder: Path, steps: int = 20, *, end: bool = True, biased: bool = False, name: str = "made-up"
) -> None:
    """Write the recipe and the trace of a run that went so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    with Trace(folder / "trace.jsonl") as trace:
        parts = {"connector": [10, 10], "llm": [30, 990]}
        memory = {"low": GIB, "expected": 2 * GIB, "high": 3 * GIB}
        trace.write(
            "start",
            0,
            name=name,
            seed=7,
            components=parts,
            samples={"train": 5},
            memory=memory,
            versions={"torch": "1"},
        )
        for step in range(1, steps + 1):
            measured = {"balance": balance(step, biased=biased)} if step % 2 == 0 else {}
            trace.write(
                "step",
                step,
                loss=2.0 / step,
                tokens=100,
                loss_tokens=10,
                padding=0,
                step_seconds=0.5,
                peak_memory_bytes=4 * GIB,
                rates={"connector": 1e-3, "llm": 5e-4},
                gradient_norms={"connector": 1.0, "llm": 2.0},
                **measured,
            )
        trace.write("routing", steps, component="llm", modalities=["text", "image"], weights=WEIGHTS)
        trace.write("validation", steps, scores={"accuracy": 0.5, EVIL: 0.25})
        if end:
            trace.write("test", steps, scores={"accuracy": 0.75, EVIL: 0.5, "nothing": None})
            trace.write("end", steps, wall_seconds=60.0)


def write_finished(folder: Path) -> Path:
    """Write a finished run with a result and predictions; return the folder."""
    write_trace(folder, name=EVIL)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter.safetensors").write_bytes(b"0" * 2_000_000)
    result = {
        "name": EVIL,
        "accuracy": 0.75,
        "open_accuracy": 0.5,
        "yes_no_accuracy": 0.25,
        "baselines": {"question_only": {"accuracy": 0.6, "yes_no_accuracy": 0.3}, "lora": None},
        "text_kl": 0.0,
        "seconds": 10.0,
        "tokens_per_second": 200.0,
        "trainable_parameters": 40,
        "peak_memory_bytes": 5 * GIB,
        "counts": {"train": 5, "longer than max_tokens, left out": 3},
        "too_long": [EVIL],
        "coordination": {"sentences": [f"Do this: {EVIL}"]},
    }
    (folder / "result.json").write_text(json.dumps(result))
    picture = folder / "seen.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(picture)
    write_predictions(
        folder / "predictions.jsonl",
        [
            Prediction(
                f"{number} {EVIL}", EVIL, EVIL, EVIL if number % 2 else "red", "image", {EVIL: EVIL}, [str(picture)]
            )
            for number in range(20)
        ],
    )
    return folder
