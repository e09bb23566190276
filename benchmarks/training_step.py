"""cotune's training step beside TRL's and a plain LLaVA's: loss tokens a second, peak memory, share of the machine.

    python benchmarks/training_step.py              # 27 minutes on two cores, and 20 for the ablation
    python benchmarks/training_step.py --quick      # a look: short samples, one round; 3 minutes
                                                    # Linux, about 16 GB of memory

Everybody learns from the same samples (quickstart pictures and questions, ScienceQA-like lengths: `step/workload.py`)
in batches of the same size on the same SmolLM2-135M in the same precision, with AdamW. Every contestant is a process of
its own that is told to run a round, all samples once; rounds go round among the contestants, so that a machine that
slows down slows all. A first round of each is not counted. Results are medians; ratios are taken within a round.

- `cotune`: the quickstart's recipe (adapters in the language model and in the last stage of EfficientNet, connector)
  in passes of two samples of like length. Text samples learn too. The balance is not measured: what that costs is
  `coordination_overhead.py`'s.
- `trl`: `SFTTrainer` with PEFT's LoRA, rank 8 on queries and values, loss on the same tokens. It takes pictures only
  with a processor of a known family of models, which this pair of models has not; so it gets text alone: the picture's
  tokens are four words more, and it is spared encoder and connector. Gradient checkpointing, its default, is off here:
  it costs a forward pass. Other rows: `checkpointed`, with it; `grouped`, by length, as the Trainer can; `passes of 2
  rows`, the same batch by gradient accumulation.
- `llava`: transformers' `Trainer` with a plain LLaVA in its first stage: picture features, two linear layers, frozen
  language model, full batches as drawn, padded, logits everywhere. Its features come finished: no encoder runs.

Memory is the process's peak resident memory over what it held before its first step. The share of the machine's peak is
the counted operations of cotune's round (padding included) over its time, against a large product by `torch.mm` between
the rounds, on as many threads; the JSON also has the peak of oneDNN's own product, which may be higher in fp32. The
ablation is more runs of rounds, three changes at a time beside the reference: each row is cotune with one thing
changed. Operations are counted as they run, also those by which attention makes its scores again. The first keys of the
result are against `trl`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console

sys.path.append(str(Path(__file__).parent / "step"))

from matrix_peak import WAYS, matrix_peak
from measuring import ASSETS, RESULTS, result
from peers_environment import peers_python
from worker import COUNT, ROUND
from workload import Plan, recipe_for, write_for_peers, write_samples

from cotune.progress import make_console, progress, table
from cotune.quickstart import ensure
from cotune.training.run import prepare_training

RESULT = RESULTS / "training_step.json"
STEP = Path(__file__).parent / "step"
SOFT, COMPILED = "model.llm.routing.mode=soft", "model.llm.compile=true"
REFERENCE = "cotune"
Rounds = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Contestant:
    """Who runs rounds: cotune with changes to its recipe, its precision or its loss, or a peer with its arguments.

    A peer's are its trainer's, and `rows`: how many run through the model at once. `attention` is another one than
    cotune's own, by transformers' name; with `layers` "plain", norms and gated layers are transformers' too.
    """

    kind: str = "cotune"
    changes: Sequence[str] = ()
    loss: str = ""
    precision: str = ""
    attention: str = ""
    layers: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


PASSES = "training.micro_batch_size=2"
PACKED, ROW_BY_ROW = "training.pack_tokens=1024", "training.micro_batch_size=1"
PEERS = {
    REFERENCE: Contestant(changes=[PASSES]),
    "trl": Contestant("trl", arguments={"gradient_checkpointing": False}),
    "trl, grouped": Contestant(
        "trl", arguments={"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
    ),
    "trl, checkpointed": Contestant("trl"),
    "trl, passes of 2 rows": Contestant("trl", arguments={"gradient_checkpointing": False, "rows": 2}),
    "llava": Contestant("llava"),
}
ABLATION = {
    "one pass": Contestant(),
    "as drawn": Contestant(changes=[PASSES, "training.length_pool=1"]),
    "packed, passes of 1 row": Contestant(changes=[PACKED, ROW_BY_ROW]),
    "packed, one pass": Contestant(changes=[PACKED]),
    "PyTorch's attention": Contestant(changes=[PASSES], attention="sdpa"),
    "packed, PyTorch's attention": Contestant(changes=[PACKED, ROW_BY_ROW], attention="sdpa"),
    "transformers' layers": Contestant(changes=[PASSES], layers="plain"),
    "compiled layers": Contestant(changes=[PASSES, COMPILED]),
    "packed, one pass, compiled layers": Contestant(changes=[PACKED, COMPILED]),
    "logits everywhere": Contestant(changes=[PASSES], loss="everywhere"),
    "logits at once": Contestant(changes=[PASSES], loss="at-once"),
    "checkpointed": Contestant(changes=[PASSES, "training.gradient_checkpointing=true"]),
    "soft, table": Contestant(changes=[PASSES, SOFT]),
    "soft, inline": Contestant(changes=[PASSES, SOFT, "model.llm.routing.weights=inline"]),
    "other precision": Contestant(changes=[PASSES], precision="other"),
}
# The ablation's contestants that are in memory together, beside the reference.
AT_ONCE = 3
OTHER = {"fp32": "bf16", "bf16": "fp32"}


class Running:
    """A contestant's process: started, asked for rounds, ended."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.log = log
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self.threads = int(self._answer()["threads"])

    def ask(self, request: str) -> dict[str, float]:
        """Return the answer to a request."""
        print(request, file=self._end(self.process.stdin), flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        line = self._end(self.process.stdout).readline()
        if not line:
            status = self.process.wait()
            why = " (killed: most likely the machine ran out of memory)" if status == -9 else ""
            raise SystemExit(f"a contestant stopped with status {status}{why}:\n{self.log.read_text()[-3000:]}")
        found: dict[str, float] = json.loads(line)
        return found

    @staticmethod
    def _end(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def close(self) -> None:
        """Let the process end: no more requests."""
        self._end(self.process.stdin).close()
        self.process.wait()


class Benchmark:
    """The samples on disk, and what runs contestants on them."""

    def __init__(self, plan: Plan, precision: str, python: Path, folder: Path, console: Console) -> None:
        self.plan, self.precision, self.python, self.folder, self.console = plan, precision, python, folder, console
        self.data = write_samples(plan, folder, console)
        self.peers_data = folder / "peers.json"
        prepared = prepare_training(recipe_for(plan, self.data, "bf16"), Console(quiet=True))
        self.samples = write_for_peers(prepared, self.peers_data)
        self.peaks: dict[str, list[float]] = {way: [] for way in WAYS}

    def precision_of(self, contestant: Contestant) -> str:
        """Return what a contestant computes in."""
        return OTHER[self.precision] if contestant.precision else self.precision

    def start(self, name: str, contestant: Contestant) -> Running:
        """Return a contestant's process, its models loaded."""
        ours = contestant.kind == "cotune"
        place = self.folder / name.replace(" ", "-")
        options = {
            "kind": contestant.kind,
            "plan": asdict(self.plan),
            "data": str(self.data if ours else self.peers_data),
            "folder": str(place),
            "precision": self.precision_of(contestant),
            "changes": list(contestant.changes),
            "loss": contestant.loss,
            "attention": contestant.attention,
            "layers": contestant.layers,
            "arguments": dict(contestant.arguments),
        }
        script = STEP / ("ours.py" if ours else "peers.py")
        return Running(
            [sys.executable if ours else self.python, script, json.dumps(options)], place.with_suffix(".log")
        )

    def run(self, contestants: Mapping[str, Contestant], rounds: int, what: str) -> tuple[Rounds, dict[str, int]]:
        """Return every contestant's rounds, and the operations of one where they are counted."""
        with self.console.status(f"{what}: loading"):
            running = {name: self.start(name, contestant) for name, contestant in contestants.items()}
        found: Rounds = {name: [] for name in running}
        with progress(self.console, what, (rounds + 1) * len(running), "rounds") as advance:
            for number in range(rounds + 1):
                for name, worker in running.items():
                    cost = worker.ask(ROUND)
                    if number:
                        found[name].append(cost)
                    advance(1)
                for way, peaks in self.peaks.items():
                    peaks.append(matrix_peak(way))
        with self.console.status("Counting operations"):
            ours = [name for name, contestant in contestants.items() if contestant.kind == "cotune"]
            operations = {name: int(running[name].ask(COUNT)["operations"]) for name in ours}
        for worker in running.values():
            worker.close()
        return found, operations


def median_ratio(rounds: Rounds, name: str, other: str, key: str) -> float:
    """Return the median over the rounds of one contestant's cost over another's in the same round."""
    pairs = zip(rounds[name], rounds[other], strict=True)
    return round(statistics.median(one[key] / two[key] for one, two in pairs), 4)


def summary_of(benchmark: Benchmark, rounds: Rounds, operations: Mapping[str, int], names: Any) -> dict[str, Any]:
    """Return each contestant's medians, and its ratios to cotune: time and memory, more is worse."""
    summary = {}
    for name, costs in rounds.items():
        seconds = statistics.median(cost["seconds"] for cost in costs)
        row = {
            "seconds": round(seconds, 3),
            "loss_tokens_per_second": round(benchmark.samples["loss_tokens"] / seconds, 1),
            "memory_bytes": round(statistics.median(cost["memory"] for cost in costs)),
            "system_seconds": round(statistics.median(cost["system_seconds"] for cost in costs), 3),
            "time_over_cotune": median_ratio(rounds, name, REFERENCE, "seconds"),
            "memory_over_cotune": median_ratio(rounds, name, REFERENCE, "memory"),
        }
        if name in operations:
            peak = statistics.median(benchmark.peaks[benchmark.precision_of(names[name])])
            row |= {"operations": operations[name], "share_of_peak": round(operations[name] / seconds / peak, 4)}
            row["padding"] = round(costs[-1]["padding"], 4)
        summary[name] = row
    return summary


def show(title: str, summary: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print a table of contestants: their time and memory over cotune's, and the share of the machine's peak."""
    rows = [
        [
            name,
            f"{row['loss_tokens_per_second']:,.0f}",
            f"{row['time_over_cotune']:.2f}",
            f"{row['memory_bytes'] / 2**20:,.0f}",
            f"{row['memory_over_cotune']:.2f}",
            f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "",
            f"{row['padding']:.0%}" if "padding" in row else "",
        ]
        for name, row in summary.items()
    ]
    heads = ["", "loss tok/s", "time", "MiB", "memory", "of peak", "padding"]
    console.print(table(title, heads, rows))


def measure_peers(benchmark: Benchmark, rounds: int) -> dict[str, Any]:
    """Return what the rounds with the peers say, and print it."""
    with_peers, operations = benchmark.run(PEERS, rounds, "Beside the peers")
    peers = summary_of(benchmark, with_peers, operations, PEERS)
    show(f"Beside the peers, {benchmark.precision}", peers, benchmark.console)
    ratios = {
        "loss_tokens_per_second_ratio": median_ratio(with_peers, "trl", REFERENCE, "seconds"),
        "peak_memory_ratio": median_ratio(with_peers, REFERENCE, "trl", "memory"),
        "loss_tokens_per_second_ratio_llava": median_ratio(with_peers, "llava", REFERENCE, "seconds"),
        "peak_memory_ratio_llava": median_ratio(with_peers, REFERENCE, "llava", "memory"),
    }
    return result(
        "training_step",
        ratios,
        precision=benchmark.precision,
        plan=asdict(benchmark.plan),
        samples=benchmark.samples,
        peers=peers,
        rounds=with_peers,
        matrix_peak={name: statistics.median(found) for name, found in benchmark.peaks.items()},
    )


def measure_ablation(benchmark: Benchmark, rounds: int) -> dict[str, Any]:
    """Return what the rounds of the ablation say, and print it."""
    summary: dict[str, Any] = {}
    found: dict[str, Rounds] = {}
    names = list(ABLATION)
    for start in range(0, len(names), AT_ONCE):
        group = {REFERENCE: PEERS[REFERENCE]} | {name: ABLATION[name] for name in names[start : start + AT_ONCE]}
        title = f"Ablation {start // AT_ONCE + 1} of {-(-len(names) // AT_ONCE)}"
        found[title], operations = benchmark.run(group, rounds, title)
        summary |= {
            name: row
            for name, row in summary_of(benchmark, found[title], operations, group).items()
            if name not in summary
        }
    show("cotune with one thing changed", summary, benchmark.console)
    return {"ablation": summary, "ablation_rounds": found}


def parse() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ablation-rounds", type=int, default=3, help="0: none")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="bf16: as the quickstart")
    parser.add_argument("--answer-share", type=float, default=0.6)
    parser.add_argument("--quick", action="store_true", help="quarter lengths, 8 samples, one round; no result kept")
    parser.add_argument("--peers-python", type=Path, help="an environment with the peers, instead of an own one")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    """Run the rounds, print the tables, write the JSON."""
    chosen, console = parse(), make_console()
    ensure(ASSETS, console)
    python = chosen.peers_python or peers_python(console)
    plan = Plan(8, 4, chosen.answer_share, shorter=4) if chosen.quick else Plan(32, 8, chosen.answer_share)
    rounds, ablation = (1, min(1, chosen.ablation_rounds)) if chosen.quick else (chosen.rounds, chosen.ablation_rounds)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(plan, chosen.precision, python, Path(folder), console)
        found = measure_peers(benchmark, rounds)
        keep(found, chosen, console)  # half an hour's work: the ablation may still run out of memory
        if ablation:
            keep(found | measure_ablation(benchmark, ablation), chosen, console)


def keep(found: Mapping[str, Any], chosen: argparse.Namespace, console: Console) -> None:
    """Write the result, unless this was only a look."""
    if not chosen.quick:
        chosen.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        console.print(f"{chosen.output} written")


if __name__ == "__main__":
    main()
