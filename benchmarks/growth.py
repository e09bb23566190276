"""How a step's time and memory grow with the model and the batch, and how reading data grows with the rows, as curves.

Tiny random models on the CPU: one step (forward, loss, backward, AdamW) against the sequence's length, the tokens of a
picture, the language model's width and the number of modalities. Made rows: index, shuffle, and going on in the middle
of an epoch, up to a million. Beside each measured exponent (the slope on log-log axes) stands that of the prediction:
of the products that are counted for time, of a formula for memory and data. Ten minutes at most on two cores.

    python benchmarks/growth.py
    python benchmarks/growth.py --quick
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curve import Curve, draw
from growth_rows import data_curves
from growth_steps import AXES, model_curves
from measuring import command, read, result, write

from cotune.progress import make_console, table

ROWS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
# A measured exponent above the predicted one by more is worse than it should be.
TOLERANCE = 0.15


def run(*, rounds: int, points: int, rows: Sequence[int], output: Path | None) -> dict[str, Any]:
    """Measure all curves, print the table, draw the pictures, write the result and return it."""
    console = make_console()
    curves: dict[str, Curve] = {}
    for name in AXES:
        with console.status(f"Steps by {AXES[name][0]}"):
            curves |= model_curves(name, rounds, points)
    curves |= data_curves(rows, rounds)
    worse = [name for name, curve in curves.items() if curve.exponent > curve.expected + TOLERANCE]
    powers = {f"{name}_exponent": round(curve.exponent, 3) for name, curve in curves.items()}
    details = {name: curve.as_result() for name, curve in curves.items()}
    found = result("growth", powers, worse_than_predicted=worse, tolerance=TOLERANCE, curves=details)
    lines = [[curve.title, f"{curve.exponent:.2f}", f"{curve.expected:.2f}"] for curve in curves.values()]
    console.print(table("Exponents", ["", "measured", "predicted"], lines))
    target = write(found, output)
    draw(curves, [target.with_suffix(".svg"), target.with_suffix(".png")])
    console.print(f"{target} written, and its pictures")
    return found


def main() -> None:
    """Read the command line and run."""
    arguments = read(command(__doc__))
    if arguments.quick:
        run(rounds=2, points=3, rows=(1000, 4000, 16_000), output=arguments.output)
    else:
        run(rounds=arguments.rounds, points=5, rows=ROWS, output=arguments.output)


if __name__ == "__main__":
    main()
