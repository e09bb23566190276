"""LaVIN-7B's tuning on one GPU: tokens a second, share of the GPU's matrix peak, memory, and hours for the whole run.

The recipe `lavin-7b` with random weights, which are made on the GPU itself: nothing is downloaded, and the host needs
no memory for them. Batches of 32 are drawn and composed as in training, of lengths modelled on ScienceQA
(`benchmarks/padding.py`); pictures are random pixels, so decoding them is left out. First in bfloat16, in parts of at
most 8,192 tokens with their padding; then with the base in 4 bits (bitsandbytes, nf4), rows of 4 and activations
computed again, for small memory. Warm-up is timed apart. Bounded to some minutes by its number of steps (145 in all).

The share of the peak is that of products counted in real steps, padding included, for bfloat16 only: the 4-bit layers'
products are not seen by the counter.

It needs a CUDA GPU that computes in bfloat16, with about 70 GB free (with training.micro_batch_tokens=2048 about 35),
and says so otherwise. The same code runs in seconds on a tiny shape:

    python benchmarks/lavin_gpu.py
    python benchmarks/lavin_gpu.py training.micro_batch_tokens=2048
    python benchmarks/lavin_gpu.py --shape tiny --device cpu
"""

from __future__ import annotations

import gc
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import random_lavin
import torch
from measuring import command, read, result, seconds, write
from padding import SAMPLES, science_qa_like
from torch.utils.flop_counter import FlopCounterMode

from cotune.data.batching import Batches
from cotune.data.composing import Budget
from cotune.data.drawing import Drawer
from cotune.data.template import Encoded
from cotune.data.too_long import TooLong
from cotune.model.multimodal_lm import MultimodalLM
from cotune.progress import make_console, table
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.run_folder import RunFolder
from cotune.training.catalogue import find_recipe
from cotune.training.estimate import estimate
from cotune.training.loop import TrainingLoop
from cotune.training.result import peak_memory_bytes

EPOCHS, PROMPT = 20, 100
WAYS = {
    "bf16": ["training.precision=bf16", "training.micro_batch_size=null", "training.micro_batch_tokens=8192"],
    "nf4": ["training.precision=bf16", "training.gradient_checkpointing=true", "model.llm.quantize=nf4"],
}
TINY = [
    "model.llm.shape={model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, "
    "num_attention_heads: 4, vocab_size: 256, max_position_embeddings: 1024}",
    "model.encoders.image.shape={model_type: clip_vision_model, hidden_size: 16, intermediate_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, image_size: 32, patch_size: 16}",
    "model.encoders.image.taps=[layer1, layer2]",
    "model.encoders.image.image_size=32",
    "training.batch_size=4",
]


def samples_for(model: MultimodalLM, count: int) -> list[Encoded]:
    """Return samples of ScienceQA-like lengths: a prompt of at most 100 tokens, the rest of them carries loss."""
    tokens = model.encoder("image").tokens
    found = []
    for item in science_qa_like(count, random.Random(0)):
        prompt = max(min(PROMPT, len(item) // 2), tokens)
        targets = [*item.targets[:prompt], *item.tokens[prompt:]]
        found.append(replace(item, targets=targets, feature_spans=[(0, tokens) for _ in item.feature_spans]))
    return found


def make_loop(recipe: Recipe, model: MultimodalLM, samples: Sequence[Encoded], folder: Path) -> TrainingLoop:
    """Return the training loop over the samples; all pictures are the same random pixels."""
    by_id = {item.sample.id: item for item in samples}
    drawer = Drawer([item.sample for item in samples], recipe.data.train[0], recipe.seed)
    settings = recipe.training
    batches = Batches(
        [drawer],
        lambda sample: by_id[sample.id],
        TooLong("error", model.template, recipe.data.max_tokens),
        budget=Budget(settings.batch_size),
        pool=settings.length_pool,
        seed=recipe.seed,
    )
    side = recipe.model.encoders.by_medium["image"].shape["image_size"]  # type: ignore[index]
    pixels = torch.randn(settings.batch_size, 3, side, side)
    loaders = {"image": lambda paths: {"inputs": pixels[: len(paths)]}}
    return TrainingLoop(recipe, model, batches, loaders, RunFolder(folder), make_console(quiet=True))


def matrix_peak(device: torch.device) -> float:
    """Return the floating-point operations a second of a large bfloat16 product, the best of several."""
    size, times = (8192, 20) if device.type == "cuda" else (512, 2)
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))

    def work() -> None:
        for _ in range(times):
            one @ other

    work()
    return 2 * size**3 * times / min(seconds(work) for _ in range(5))


def measure(recipe: Recipe, device: torch.device, rounds: int, steps: int, peak: float, count: int) -> dict[str, Any]:
    """Return what tuning takes by a recipe; `steps` are those of a round, `peak` the matrix peak."""
    made: list[MultimodalLM] = []
    found: dict[str, Any] = {"build_seconds": seconds(lambda: made.append(random_lavin.build(recipe, device)))}
    samples = samples_for(made[0], count)
    with tempfile.TemporaryDirectory() as folder:
        loop = make_loop(recipe, made[0], samples, Path(folder))
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        found["warm_up_seconds"] = seconds(lambda: loop.try_steps(3))
        before = replace(loop.costs)
        with FlopCounterMode(display=False) as counted:
            loop.try_steps(2)
        each_token = counted.get_total_flops() / (loop.costs.tokens - before.tokens)
        speeds, padding = [], []
        for _ in range(rounds):
            before = replace(loop.costs)
            taken = seconds(lambda: loop.try_steps(steps))
            tokens = loop.costs.tokens - before.tokens
            speeds.append(tokens / taken)
            padding.append((loop.costs.padding - before.padding) / tokens)
    speed = median(speeds)
    whole_run = EPOCHS * sum(map(len, samples)) * SAMPLES / len(samples)
    return found | {
        "tokens_per_second": speed,
        "hours": whole_run / speed / 3600,
        "share_of_peak": None if recipe.model.llm.quantize else each_token * speed / peak,
        "peak_memory_bytes": peak_memory_bytes(),
        "operations_counted_per_token": each_token,
        "padding_per_token": median(padding),
        "mean_length": sum(map(len, samples)) / len(samples),
        "tokens_per_second_rounds": speeds,
    }


def refusal(recipes: dict[str, Recipe], device: torch.device) -> str | None:
    """Return why the recipes cannot be measured here and what to do about it; None when they can."""
    if "nf4" in recipes and find_spec("bitsandbytes") is None:
        return "the 4-bit mode needs bitsandbytes: pip install 'cotune[quantize]', or leave it out by --modes bf16"
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available() or not torch.cuda.is_bf16_supported():
        return "this needs a CUDA GPU that computes in bfloat16; for a look at the code: --shape tiny --device cpu"
    free, _ = torch.cuda.mem_get_info()
    for name, recipe in recipes.items():
        needed = _bytes_needed(recipe)
        if needed > free:
            return (
                f"{name}: about {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB are free on "
                f"{torch.cuda.get_device_name()}; lower training.micro_batch_tokens (now "
                f"{recipe.training.micro_batch_tokens}), or free memory"
            )
    return None


def _held_bytes(device: torch.device) -> int:
    """Return what is allocated on a GPU before a model is built, when all that nobody needs is given back."""
    if device.type != "cuda":
        return 0
    gc.collect()  # a model and its hooks hold each other
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())


def _bytes_needed(recipe: Recipe) -> int:
    """Return the memory of a step by the estimate, or that of building the model in bfloat16 where it is more."""
    longest = recipe.data.max_tokens
    rows = (recipe.training.micro_batch_tokens or 0) // longest or recipe.training.micro_batch_size
    sized = parse_recipe(recipe.model_dump(mode="json"), [f"training.micro_batch_size={rows}"])
    size = estimate(sized, tokens=longest, answer_tokens=longest - PROMPT).memory.range
    return max(0 if size is None else size.high, 16 * 10**9)


def run(
    shape: str,
    device: torch.device,
    modes: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    rounds: int,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure, print the table and the JSON, write the result and return it; exits with a text where it cannot."""
    tiny = shape == "tiny"
    changes = {mode: [*(TINY if tiny else []), *WAYS[mode], *overrides] for mode in modes}
    recipes = {mode: find_recipe("lavin-7b", changed) for mode, changed in changes.items()}
    if (why := refusal(recipes, device)) is not None:
        raise SystemExit(why)
    peak, steps = matrix_peak(device), {"bf16": 2, "nf4": 2} if tiny else {"bf16": 20, "nf4": 8}
    parts = {}
    for mode, recipe in recipes.items():
        held = _held_bytes(device)
        parts[mode] = measure(recipe, device, rounds, steps[mode], peak, 200 if tiny else SAMPLES)
        parts[mode]["held_before_bytes"] = held
    ratios = {
        f"{mode}_{key}": found[key]
        for mode, found in parts.items()
        for key in ("tokens_per_second", "hours", "share_of_peak", "peak_memory_bytes")
        if found[key] is not None
    }
    name = "lavin_gpu_tiny" if tiny else "lavin_gpu"
    found = result(name, ratios, peak_operations_per_second=peak, device=str(device), changes=changes, modes=parts)
    lines = [
        [
            mode,
            f"{part['tokens_per_second']:,.0f}",
            "-" if part["share_of_peak"] is None else f"{part['share_of_peak']:.0%}",
            f"{part['peak_memory_bytes'] / 1e9:.1f}",
            f"{part['hours']:.2f}",
        ]
        for mode, part in parts.items()
    ]
    columns = ["", "tokens/s", "of the matrix peak", "GB at most", f"hours for {EPOCHS} epochs"]
    make_console().print(table(f"LaVIN-7B's tuning, {shape}, {device}", columns, lines))
    print(json.dumps(found))
    make_console().print(f"{write(found, output)} written")
    return found


def main() -> None:
    """Read the command line and run."""
    parser = command(__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--shape", choices=("lavin-7b", "tiny"), default="lavin-7b")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--modes", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    arguments = read(parser)
    rounds = 2 if arguments.quick else arguments.rounds
    run(arguments.shape, arguments.device, arguments.modes, arguments.overrides, rounds=rounds, output=arguments.output)


if __name__ == "__main__":
    main()
