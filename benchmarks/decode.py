"""Tokens a second of the routed model, of a folded copy and of the plain base: what adapters cost when they answer.

The quickstart's language model with random adapters at every layer, greedy decoding of a fixed number of tokens behind
a prompt, one answer at a time and 16 at once. The three take turns; a ratio is the median over the rounds. Weights they
have in common lie in memory once: two copies of one model differ by some percent by where they lie. About two minutes
on two cores. `--large` takes a model of SmolLM2-1.7B's shape with random weights instead, of whose work the adapters
are a smaller part: 16 GB of memory, and 4 GB on the disk for a while.

    python benchmarks/decode.py
    python benchmarks/decode.py --large
    python benchmarks/decode.py --quick
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import ASSETS, Rounds, command, medians, ratio, read, result, seconds, take_turns, write
from random_lavin import language_model

from cotune.adapters import fold
from cotune.data.collate import Batch
from cotune.messages import IMAGE
from cotune.model.loading import build_model, load_llm, load_tokenizer
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.shared_weights import share_weights
from cotune.progress import make_console, table
from cotune.quickstart import ensure
from cotune.recipe import Recipe
from cotune.training.catalogue import find_recipe

BATCHES = (1, 16)
ROUTED, FOLDED, BASE = "routed", "folded", "base"
LARGE = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def with_large_model(recipe: Recipe, folder: Path) -> Recipe:
    """Return a recipe whose language model is large, with random weights and the same tokenizer, made in a folder."""
    torch.manual_seed(0)
    language_model(LARGE, getattr(torch, recipe.model.llm.dtype)).save_pretrained(folder)
    load_tokenizer(recipe.model.llm).save_pretrained(folder)
    return find_recipe("quickstart", [f"model.llm.path={folder}"])


def models(recipe: Recipe) -> dict[str, MultimodalLM]:
    """Return the routed model with random adapters, the same folded, and the base without any; none ever stops."""
    routed = build_model(recipe).eval()
    assert routed.adapters is not None
    generator = torch.Generator().manual_seed(0)
    for parameter in routed.adapters.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).mul(0.02).to(parameter)
    base = load_llm(recipe.model.llm, routed.device).to(routed.device)
    plain = {FOLDED: fold(routed.llm, IMAGE, routed.adapters), BASE: base}
    for llm in plain.values():
        share_weights(llm, routed.llm)
    found = {ROUTED: routed} | {name: MultimodalLM(llm, routed.template).eval() for name, llm in plain.items()}
    routed.template.stop_ids.clear()
    return found


def prompts(model: MultimodalLM, batch: int, tokens: int) -> Batch:
    """Return prompts of random tokens, routed as if they held a picture."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(3, model.llm.config.vocab_size, (batch, tokens), generator=generator)
    return Batch(rows, torch.full_like(rows, -100), [tokens] * batch, [IMAGE] * batch, {}).to(model.device)


def measure(recipe: Recipe, rounds: int, prompt: int, answer: int) -> dict[int, Rounds]:
    """Return the new tokens a second by batch size, way and round."""
    made = models(recipe)

    def speed(model: MultimodalLM, batch: Batch) -> float:
        size = len(batch.lengths)
        return size * answer / seconds(lambda: model.generate(batch, answer))

    found = {}
    for size in BATCHES:
        batch = prompts(made[ROUTED], size, prompt)
        ways = {name: lambda model=model, batch=batch: speed(model, batch) for name, model in made.items()}
        take_turns(ways, 1)  # warms up
        found[size] = take_turns(ways, rounds)
    return found


def summarise(name: str, recipe: Recipe, found: dict[int, Rounds], prompt: int, answer: int) -> dict[str, Any]:
    """Return the result called `name`: ratios to the plain base, then the speeds."""
    ratios = {
        f"{way}_to_base_batch_{size}": ratio(speeds[way], speeds[BASE])
        for size, speeds in found.items()
        for way in (ROUTED, FOLDED)
    }
    return result(
        name,
        ratios,
        recipe=recipe.name,
        dtype=recipe.model.llm.dtype,
        prompt_tokens=prompt,
        new_tokens=answer,
        tokens_per_second={str(size): medians(speeds) for size, speeds in found.items()},
        rounds={str(size): speeds for size, speeds in found.items()},
    )


def run(name: str, recipe: Recipe, *, rounds: int, prompt: int, answer: int, output: Path | None) -> dict[str, Any]:
    """Measure, print the table, write the result called `name` and return it."""
    found = summarise(name, recipe, measure(recipe, rounds, prompt, answer), prompt, answer)
    rows = []
    for size in BATCHES:
        speeds = found["tokens_per_second"][str(size)]
        every = {way: found[f"{way}_to_base_batch_{size}"] for way in (ROUTED, FOLDED)} | {BASE: 1.0}
        rows += [[f"batch {size}, {way}", f"{speeds[way]:.1f}", f"{share:.3f}"] for way, share in every.items()]
    console = make_console()
    console.print(table(f"Decoding, {name}", ["", "tokens/s", "of the base's"], rows))
    console.print(f"{write(found, output)} written")
    return found


def main() -> None:
    """Read the command line and run."""
    parser = command(__doc__, rounds=7)
    parser.add_argument(
        "--large", action="store_true", help="a random model of SmolLM2-1.7B's shape: decode_large.json"
    )
    arguments = read(parser)
    ensure(ASSETS, make_console())
    prompt, answer = (16, 8) if arguments.quick else (64, 16) if arguments.large else (64, 48)
    settings = {"rounds": 2 if arguments.quick else arguments.rounds, "prompt": prompt, "answer": answer}
    recipe = find_recipe("quickstart", [])
    if not arguments.large:
        run("decode", recipe, **settings, output=arguments.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        run("decode_large", with_large_model(recipe, Path(folder)), **settings, output=arguments.output)


if __name__ == "__main__":
    main()
