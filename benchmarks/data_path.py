"""How much of a training step waits for data, with pictures of 1 to 4 megapixels, and rows a second of `cotune check`.

The quickstart's models, the image encoder learning as a whole, so that every picture is decoded anew at every step
(with a frozen trunk it would be decoded once). Steps without workers, with two of them, and on pictures decoded before
take turns. The pictures are made here: JPEGs of smooth colours under noise. About six minutes on two cores.

    python benchmarks/data_path.py
    python benchmarks/data_path.py --quick
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import cache
from pathlib import Path
from typing import Any

import torch
from measuring import ASSETS, Rounds, command, medians, ratio, read, result, seconds, take_turns, write
from PIL import Image

from cotune.inspection.check import check
from cotune.inspection.opened import open_data
from cotune.model.feature_cache import FeatureCache
from cotune.progress import make_console, table
from cotune.quickstart import ensure
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.run_folder import RunFolder
from cotune.training.catalogue import find_recipe
from cotune.training.loop import TrainingLoop
from cotune.training.prepare import make_batches, media_paths
from cotune.training.run import prepare_training

WORKERS = 2
MEGAPIXELS = (1, 2, 3, 4)
ALONE, HELPED, DECODED = "no workers", f"{WORKERS} workers", "decoded before"
WORDS = (
    "why",
    "does",
    "the",
    "red",
    "kite",
    "rise",
    "when",
    "a",
    "warm",
    "wind",
    "pushes",
    "air",
    "under",
    "its",
    "wing",
)


def make_pictures(folder: Path, count: int, megapixels: Sequence[float]) -> list[Path]:
    """Save JPEGs of 4 to 3 with the sizes in turn, and return them."""
    found, generator = [], torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = 1e6 * megapixels[number % len(megapixels)]
        size = (round((pixels * 4 / 3) ** 0.5), round((pixels * 3 / 4) ** 0.5))
        small = torch.randint(256, (24, 32, 3), generator=generator, dtype=torch.uint8)
        smooth = Image.fromarray(small.numpy()).resize(size, Image.Resampling.BICUBIC)
        noisy = Image.blend(smooth, Image.effect_noise(size, 60).convert("RGB"), 0.25)
        found.append(folder / f"{number}.jpg")
        noisy.save(found[-1], quality=90)
    return found


def write_rows(file: Path, count: int, pictures: Sequence[Path]) -> None:
    """Write questions about the pictures in turn, with answers of a sentence or several, as chat JSONL."""
    chance = random.Random(0)
    with file.open("w", encoding="utf-8") as rows:
        for number in range(count):
            asked = [{"type": "image", "path": pictures[number % len(pictures)].name}]
            question = " ".join(chance.choices(WORDS, k=chance.randint(8, 40)))
            answer = " ".join(chance.choices(WORDS, k=chance.randint(8, 80)))
            messages = [
                {"role": "user", "content": [*asked, {"type": "text", "text": question}]},
                {"role": "assistant", "content": answer},
            ]
            rows.write(json.dumps({"id": str(number), "messages": messages}) + "\n")


class WatchedLoop(TrainingLoop):
    """A training loop that counts the seconds it waits for batches: drawing, loading, and bringing to the device."""

    waited = 0.0

    def watch(self) -> None:
        """Begin to count."""
        self.stream.take = self._counted(self.stream.take)  # type: ignore[method-assign]
        self.passes.collated = self._counted(self.passes.collated)  # type: ignore[method-assign]

    def _counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            started = time.perf_counter()
            found = work(*given)
            self.waited += time.perf_counter() - started
            return found

        return call


def recipe_for(base: Recipe, rows: Path, workers: int) -> Recipe:
    """Return a recipe that learns from rows about pictures, with its image encoder learning as a whole."""
    changes = [
        f"data.train=[{{path: {rows}, reader: chat}}]",
        "data.test=[]",
        "data.validation_share=0.0",
        f"data.workers={workers}",
        "components.vision.tune=full",
        "coordination.measure_every=0",
        "training.steps=1000000",
        "evaluation.task=exact-match",
    ]
    return parse_recipe(base.model_dump(mode="json"), changes)


def make_loop(recipe: Recipe, folder: Path, *, decoded: bool) -> WatchedLoop:
    """Return a watched loop past its first steps; with `decoded` its pictures are loaded once and remembered."""
    console = make_console(quiet=True)
    prepared = prepare_training(recipe, console)
    batches = make_batches(recipe, prepared.samples, prepared.model)
    for loader in prepared.loaders.values():
        assert isinstance(loader, FeatureCache)
        if decoded:
            loader._input = cache(loader._input)  # type: ignore[method-assign]
    loop = WatchedLoop(recipe, prepared.model, batches, prepared.loaders, RunFolder(folder), console)
    if decoded:
        for kind, paths in media_paths(prepared.samples.all_train).items():
            prepared.loaders[kind](paths)
    loop.try_steps(2)
    loop.watch()
    return loop


def one_round(loop: WatchedLoop, steps: int) -> tuple[float, float]:
    """Return the seconds of a step and those it waited for data; what was begun for later steps is ended, and counted.

    So a way that loads ahead neither takes work into the next round nor leaves it to the next way.
    """
    loop.waited = 0.0

    def work() -> None:
        loop.try_steps(steps)
        for loader in loop.loaders.values():
            wait(loader._begun.values())  # type: ignore[attr-defined]

    return seconds(work) / steps, loop.waited / steps


def measure_steps(base: Recipe, rows: Path, folder: Path, rounds: int, steps: int) -> tuple[Rounds, Rounds]:
    """Return seconds of a step, and the share of them that waited, by way and round."""
    loops = {
        name: make_loop(recipe_for(base, rows, workers), folder / name, decoded=name == DECODED)
        for name, workers in ((ALONE, 0), (HELPED, WORKERS), (DECODED, 0))
    }
    shares: Rounds = {name: [] for name in loops}

    def turn(name: str) -> float:
        taken, waited = one_round(loops[name], steps)
        shares[name].append(waited / taken)
        return taken

    return take_turns({name: lambda name=name: turn(name) for name in loops}, rounds), shares


def measure_check(rows: Path, model: str, rounds: int) -> list[float]:
    """Return the seconds of reading and checking the rows, by round."""
    console = make_console(quiet=True)

    def work() -> None:
        check(open_data(str(rows), model=model, chat_template="chatml"), console, rows.with_suffix(".png"))

    work()
    return [seconds(work) for _ in range(rounds)]


def run(
    base: Recipe,
    *,
    rounds: int,
    steps: int,
    pictures: int,
    checked: int,
    megapixels: Sequence[float] = MEGAPIXELS,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure, print the tables, write the result and return it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_pictures(folder, pictures, megapixels)
        write_rows(folder / "train.jsonl", 4 * pictures, made)
        write_rows(folder / "check.jsonl", checked, made)
        taken, shares = measure_steps(base, folder / "train.jsonl", folder, rounds, steps)
        checks = measure_check(folder / "check.jsonl", base.model.llm.path, rounds)
    per_step, waiting, rows_each = medians(taken), medians(shares), medians({"check": checks})["check"]
    ratios = {
        "waiting_share": waiting[HELPED],
        "waiting_share_without_workers": waiting[ALONE],
        "step_to_step_without_decoding": ratio(taken[HELPED], taken[DECODED]),
        "step_to_step_without_workers": ratio(taken[HELPED], taken[ALONE]),
        "check_rows_per_second": checked / rows_each,
    }
    found = result(
        "data_path",
        ratios,
        recipe=base.name,
        workers=WORKERS,
        megapixels=list(megapixels),
        batch_size=base.training.batch_size,
        seconds_per_step=per_step,
        checked_rows=checked,
        rounds={"seconds_per_step": taken, "waiting_share": shares, "check_seconds": checks},
    )
    console = make_console()
    lines = [[name, f"{per_step[name]:.3f}", f"{waiting[name]:.1%}"] for name in taken]
    console.print(table("Steps on pictures of 1 to 4 megapixels", ["", "seconds", "waiting for data"], lines))
    console.print(f"cotune check: {checked / rows_each:,.0f} rows/s ({checked:,} rows with pictures, tokenised)")
    console.print(f"{write(found, output)} written")
    return found


def main() -> None:
    """Read the command line and run."""
    parser = command(__doc__)
    arguments = read(parser)
    ensure(ASSETS, make_console())
    size = {"rounds": 1, "steps": 3, "pictures": 8, "checked": 500} if arguments.quick else {}
    full = {"rounds": arguments.rounds, "steps": 6, "pictures": 32, "checked": 20_000} | size
    run(find_recipe("quickstart", []), **full, output=arguments.output)


if __name__ == "__main__":
    main()
