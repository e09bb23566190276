"""How much of a step is padding on ScienceQA-like lengths: packed rows, length groups and batches as they come.

python benchmarks/padding.py            # seconds; no model, no network

ScienceQA is not read here: its lengths are drawn. 10,332 of its 21,208 questions have a picture (Lu et al. 2022,
arXiv 2209.09513). Their lengths in the format QCM-ALE (question, context, choices, then answer, lecture, explanation)
are modelled, not measured: log-normal around 150 tokens for a fifth of the questions (without a lecture) and around
300 for the others, spread by a factor of 1.57 at one standard deviation, between 40 and the 512 tokens of the recipe
lavin-7b. `--lengths FILE` (one number a line) measures a real data set instead.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from measuring import result, write
from rich.console import Console

from cotune.data.composing import Budget, compose
from cotune.data.passes import Row, cut_into_passes, padded_share
from cotune.data.template import IGNORED, Encoded
from cotune.messages import Image, Message, Sample, Text
from cotune.progress import table

SAMPLES = 12_726
PICTURED = 10_332 / 21_208
LONGEST = 512
BATCH, POOL, ROW = 32, 4, 1024
# As the recipe lavin-7b cuts its batches of 32.
MICRO = Budget(size=4)


def science_qa_like(count: int, generator: random.Random) -> list[Encoded]:
    """Return samples of the modelled lengths, some with a picture of six feature tokens."""
    samples = []
    for number in range(count):
        typical = 300 if generator.random() < 0.8 else 150
        length = min(LONGEST, max(40, int(generator.lognormvariate(0, 0.45) * typical)))
        samples.append(sample(number, length, pictured=generator.random() < PICTURED))
    return samples


def sample(number: int, length: int, *, pictured: bool) -> Encoded:
    """Return an encoded sample of a length."""
    media = (Image(Path(f"{number}.png")),) if pictured else ()
    words = Sample(str(number), (Message("user", (*media, Text("t"))),))
    return Encoded([1] * length, [IGNORED] * length, [(0, 6)] if pictured else [], words)


def measure(samples: Sequence[Encoded], *, by_length: bool, row_tokens: int | None, micro: Budget) -> float:
    """Return the padded share of an epoch, drawn and composed a pool at a time as training does."""
    passes: list[list[Row]] = []
    for start in range(0, len(samples) - BATCH * POOL + 1, BATCH * POOL):
        for batch in compose(samples[start : start + BATCH * POOL], Budget(BATCH), by_length=by_length):
            passes += cut_into_passes(batch, micro, row_tokens)
    return padded_share(passes)


def as_they_come(samples: Sequence[Encoded]) -> float:
    """Return the padded share of batches in the order of drawing: what a plain data loader makes."""
    starts = range(0, len(samples) - BATCH + 1, BATCH)
    return padded_share([[[item] for item in samples[start : start + BATCH]] for start in starts])


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path, help="a file with one length a line, in place of the modelled ones")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    generator = random.Random(0)
    if arguments.lengths:
        samples = [sample(i, int(line), pictured=False) for i, line in enumerate(arguments.lengths.read_text().split())]
        generator.shuffle(samples)
    else:
        samples = science_qa_like(SAMPLES, generator)
    whole = Budget()
    shares = {
        "as drawn, one pass a step": as_they_come(samples),
        "length groups, one pass a step": measure(samples, by_length=True, row_tokens=None, micro=whole),
        "length groups, passes of 4 rows": measure(samples, by_length=True, row_tokens=None, micro=MICRO),
        f"packed rows of {ROW}, one pass a step": measure(samples, by_length=False, row_tokens=ROW, micro=whole),
        f"packed rows of {ROW}, passes of 4 rows": measure(samples, by_length=False, row_tokens=ROW, micro=MICRO),
    }
    lengths = sorted(map(len, samples))
    about = str(arguments.lengths) if arguments.lengths else "modelled on ScienceQA"
    found = result(
        "padding",
        {"padded_share": {name: round(share, 4) for name, share in shares.items()}},
        lengths=about,
        samples=len(samples),
        mean_length=round(sum(lengths) / len(lengths), 1),
        median_length=lengths[len(lengths) // 2],
        batch_size=BATCH,
        length_pool=POOL,
    )
    write(found, arguments.output)
    rows = [[name, f"{share:.1%}"] for name, share in shares.items()]
    Console().print(table(f"Padding ({about})", ["batches", "padding"], rows))


if __name__ == "__main__":
    main()
