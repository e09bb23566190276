"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cotune.serving.engine import Engine

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = registry = CollectorRegistry()
        self.responses = Counter("cotune_responses", "responses by status", ["status"], registry=registry)
        self.answered = Counter(
            "cotune_requests_answered", "requests answered to the end", ["modality", "path"], registry=registry
        )
        self.left = Counter("cotune_requests_left", "requests whose client went away", registry=registry)
        self.prompt_tokens = Counter("cotune_prompt_tokens", "tokens of prompts", registry=registry)
        self.answer_tokens = Counter("cotune_answer_tokens", "tokens of answers", registry=registry)
        self.first = Histogram(
            "cotune_first_token_seconds", "from a request to its first text", buckets=_SECONDS, registry=registry
        )
        self.whole = Histogram(
            "cotune_request_seconds", "from a request to its whole answer", buckets=_SECONDS, registry=registry
        )
        running = Gauge("cotune_running", "answers being computed", registry=registry)
        running.set_function(lambda: engine.running)
        waiting = Gauge("cotune_waiting", "requests in the queue", registry=registry)
        waiting.set_function(lambda: engine.waiting)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
