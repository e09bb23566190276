"""What goes back to the client, as the OpenAI API writes it, and beside it what only cotune says."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cotune.errors import RequestError
from cotune.serving.generation import Ended
from cotune.serving.ways import Way

Body = dict[str, Any]
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass
class Completion:
    """The answers to one request while they come: their texts, how each ended, and what is said about them."""

    model: str
    way: Way
    prompt_tokens: int
    choices: int
    notes: Sequence[str] = ()
    texts: list[str] = field(default_factory=list)
    ended: dict[int, Ended] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.texts = [""] * self.choices

    @property
    def complete(self) -> bool:
        """Whether every answer has ended."""
        return len(self.ended) == self.choices

    @property
    def completion_tokens(self) -> int:
        """How many tokens the answers have, those that ended them included."""
        return sum(ended.tokens for ended in self.ended.values())

    def usage(self) -> Body:
        """Return the counts of tokens."""
        made = self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    def about(self) -> Body:
        """Return what only cotune says: the modality, which weights answered, and the experts' weights by site."""
        said: Body = {"modality": self.way.modality, "path": self.way.path, "routing": self.way.routing}
        if self.notes:
            said["notes"] = list(self.notes)
        if any(ended.reason == "time" for ended in self.ended.values()):
            said["out_of_time"] = True
        return said

    def body(self) -> Body:
        """Return the whole answer."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason(self.ended[number]),
            }
            for number, text in enumerate(self.texts)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage(), "cotune": self.about()}

    def chunk(self, choice: int, delta: Body, ended: Ended | None = None) -> Body:
        """Return one piece of a stream; the last one says how it came about."""
        found = {
            "index": choice,
            "delta": delta,
            "logprobs": None,
            "finish_reason": None if ended is None else finish_reason(ended),
        }
        body = {**self._head("chat.completion.chunk"), "choices": [found]}
        return body | {"cotune": self.about()} if self.complete else body

    def usage_chunk(self) -> Body:
        """Return the piece behind the last one that counts tokens."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def _head(self, kind: str) -> Body:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def finish_reason(ended: Ended) -> str:
    """Return the API's word for why an answer ended; it has none for the end of the time."""
    return "stop" if ended.reason == "stop" else "length"


def error_body(error: RequestError) -> Body:
    """Return an error as the API writes it."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def error_headers(error: RequestError) -> dict[str, str]:
    """Return the headers that belong to an error."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return headers | ({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})


def event(body: Body | str) -> bytes:
    """Return a server-sent event."""
    return f"data: {body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)}\n\n".encode()


def model_body(name: str, created: int, media: Sequence[str]) -> Body:
    """Return the entry of a model in the list of models; `media` is what it reads beside text."""
    return {"id": name, "object": "model", "created": created, "owned_by": "cotune", "cotune": {"media": list(media)}}
