"""Tokens a second and time to the first token with one client and with many, of a served run.

python benchmarks/serving.py                 # about 6 minutes on two cores; needs a run: cotune quickstart
python benchmarks/serving.py --quick         # about a minute, for a look
python benchmarks/serving.py --run runs/mine --clients 1 2 4 8 16

A server is started on a free port as `cotune serve RUN` starts it, and asked by as many threads as there are clients,
each with one request after another: streamed, greedy, at most `--tokens` tokens long. The questions are text, or
(`--image`) about a picture of the quickstart's test data, which takes the image path. Each number of clients is
measured in turn, `--rounds` times over, so that a machine that becomes slower meets all of them; shown are medians over
the rounds. The ratio is the throughput of the last number of clients over that of the first. The clients run on the
same machine.
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from measuring import RESULTS, result, write
from rich.console import Console

from cotune.progress import progress, table

RESULT = RESULTS / "serving.json"
PICTURE = Path("~/.cache/cotune/easy-vqa-1.0/test/images/0.png").expanduser()
TOPICS = ["a dog", "the sea", "a train", "two friends", "the moon", "a garden", "winter", "a clock"]


@dataclass(frozen=True)
class Answered:
    """One streamed answer: its tokens, seconds to the first text and to the end, and the path that answered."""

    tokens: int
    first: float
    whole: float
    path: str


@dataclass(frozen=True)
class Measured:
    """All answers to some clients in one round, and the seconds from the first request to the last answer."""

    answers: list[Answered]
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens of answers a second, of all clients together."""
        return sum(answer.tokens for answer in self.answers) / self.seconds


@contextmanager
def served(run: Path, rows: int) -> Iterator[str]:
    """Serve a run in a process of its own within the block; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cotune", "serve", str(run), "--port", str(port), "--rows", str(rows)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server ended; run `cotune serve` by hand to see why")
        try:
            httpx.get(f"{address}/health")
            return
        except httpx.ConnectError:
            time.sleep(0.2)
    raise SystemExit("the server did not begin within two minutes")


def ask(client: httpx.Client, model: str, number: int, tokens: int, picture: str | None) -> Answered:
    """Return how one question was answered."""
    text = f"Write a long story about {TOPICS[number % len(TOPICS)]}, number {number}."
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, first, made, path = time.monotonic(), 0.0, 0, ""
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if not first and any(choice["delta"].get("content") for choice in chunk["choices"]):
                first = time.monotonic() - begun
            path = chunk["cotune"]["path"] if "cotune" in chunk else path
            made = chunk["usage"]["completion_tokens"] if "usage" in chunk else made
    whole = time.monotonic() - begun
    return Answered(made, first or whole, whole, path)


def measure(address: str, model: str, clients: int, requests: int, tokens: int, picture: str | None) -> Measured:
    """Return what so many clients met, each with `requests` requests one after another."""
    answers: list[Answered] = []

    def work(number: int) -> None:
        with httpx.Client(base_url=address, timeout=600) as client:
            for turn in range(requests):
                answers.append(ask(client, model, number * requests + turn, tokens, picture))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answers) != clients * requests:
        raise SystemExit("a request failed; see above")
    return Measured(answers, time.monotonic() - begun)


def summary(clients: int, rounds: Sequence[Measured]) -> dict[str, Any]:
    """Return the medians over the rounds of one number of clients."""
    first = sorted(answer.first for found in rounds for answer in found.answers)
    rates = [found.rate for found in rounds]
    return {
        "clients": clients,
        "tokens_per_second": statistics.median(rates),
        "slowest_round": min(rates),
        "fastest_round": max(rates),
        "first_token_p50": statistics.median(first),
        "first_token_p95": first[min(len(first) - 1, round(0.95 * len(first)))],
        "mean_tokens": statistics.mean(answer.tokens for found in rounds for answer in found.answers),
        "paths": sorted({answer.path for found in rounds for answer in found.answers}),
    }


def run_all(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Return the summary of every number of clients."""
    picture = None
    if options.image:
        picture = "data:image/png;base64," + base64.b64encode(options.image.read_bytes()).decode()
    found: dict[int, list[Measured]] = {clients: [] for clients in options.clients}
    with served(options.run, max(options.clients)) as address:
        model = httpx.get(f"{address}/v1/models").json()["data"][0]["id"]
        measure(address, model, 1, 1, 8, picture)  # the first one finds caches cold
        with progress(console, "Measuring", options.rounds * len(found), "rounds") as advance:
            for _ in range(options.rounds):
                for clients, rounds in found.items():
                    rounds.append(measure(address, model, clients, options.requests, options.tokens, picture))
                    advance(note=f"{clients} clients: {rounds[-1].rate:.1f} tokens/s")
    return [summary(clients, rounds) for clients, rounds in found.items()]


def shown(rows: Sequence[dict[str, Any]], console: Console) -> float:
    """Print the table and return the ratio of the last row's throughput to the first's."""
    ratio = rows[-1]["tokens_per_second"] / rows[0]["tokens_per_second"]
    columns = ["clients", "tokens/s", "rounds from - to", "first token p50", "p95", "tokens an answer", "path"]
    lines = [
        [
            str(row["clients"]),
            f"{row['tokens_per_second']:.1f}",
            f"{row['slowest_round']:.1f} - {row['fastest_round']:.1f}",
            f"{row['first_token_p50']:.2f} s",
            f"{row['first_token_p95']:.2f} s",
            f"{row['mean_tokens']:.0f}",
            " ".join(row["paths"]),
        ]
        for row in rows
    ]
    console.print(table("Served", columns, lines))
    console.print(
        f"{rows[-1]['clients']} clients together: {ratio:.2f} times the tokens a second of {rows[0]['clients']}"
    )
    return float(ratio)


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--requests", type=int, default=2, help="of each client, in a round")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", type=Path, nargs="?", const=PICTURE, help="ask about a picture")
    parser.add_argument("--quick", action="store_true", help="1 and 8 clients, one short round; nothing is written")
    options = parser.parse_args()
    if options.quick:
        options.clients, options.requests, options.tokens, options.rounds = [1, 8], 1, 32, 1
    console = Console()
    rows = run_all(options, console)
    ratio = shown(rows, console)
    if options.quick:
        return
    about = {"run": options.run.name, "tokens": options.tokens, "image": options.image is not None}
    name = RESULT.with_stem("serving-image") if options.image else RESULT
    write(result("serving", {"ratio": ratio}, **about, rows=rows), name)
    console.print(f"Written: {name}")


if __name__ == "__main__":
    main()
