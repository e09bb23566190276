"""A judge behind an OpenAI-compatible address, asked no more often and for no more tokens than allowed."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cotune.errors import CotuneError

# Too many requests, and what a busy or restarting server says: worth another try.
_PASSING = (429, 500, 502, 503, 504)
# No tokenizer of a judge is known here; English text has about four characters a token, so this is more than it has.
_CHARACTERS_PER_TOKEN = 2


class JudgeError(CotuneError):
    """A judge that cannot be reached or answers with something else than a reply; what was judged is kept."""


class CostCapError(CotuneError):
    """The next question might cost more than allowed; what was judged is kept."""


class Reply(NamedTuple):
    """What a judge said, and how many tokens it counted."""

    text: str
    tokens: int


@dataclass
class Judge:
    """A model at an address (`http://HOST/v1`), with caps on requests, retries included, and on tokens.

    A request is refused before it is sent when it might go beyond a cap, its longest reply included.
    """

    url: str
    model: str
    key: str | None = None
    max_requests: int = 1000
    max_tokens: int = 1_000_000
    reply_tokens: int = 512
    timeout: float = 120.0
    attempts: int = 3
    pause: float = 2.0
    requests: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    def ask(self, prompt: str) -> Reply:
        """Return the judge's reply to one prompt, at temperature 0.

        Raises:
            CostCapError: when a cap does not allow it.
            JudgeError: when the judge cannot be reached after some tries, or answers something else.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.reply_tokens,
        }
        content = self._post(json.dumps(body).encode(), longest_cost(prompt, self.reply_tokens))
        try:
            text = str(content["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise JudgeError(f"{self.url}: a reply without choices[0].message.content") from None
        usage = content.get("usage") or {}
        tokens = int(usage.get("total_tokens") or longest_cost(prompt + text, 0))
        self.tokens += tokens
        return Reply(text, tokens)

    def _post(self, body: bytes, most: int) -> Any:
        for attempt in range(1, self.attempts + 1):
            self._check_caps(most)
            self.requests += 1
            try:
                with urllib.request.urlopen(self._request(body), timeout=self.timeout) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                problem, passing = f"{error.code} {error.reason}", error.code in _PASSING
            except (OSError, ValueError) as error:
                problem, passing = str(getattr(error, "reason", error)), isinstance(error, OSError)
            if not passing or attempt == self.attempts:
                raise JudgeError(f"{self.url}: {problem}; what was judged is kept, the same command goes on")
            time.sleep(self.pause * attempt)
        raise AssertionError("unreachable")

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        return urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)

    def _check_caps(self, most: int) -> None:
        if self.requests >= self.max_requests:
            raise CostCapError(
                f"{self.max_requests} requests were made (--max-requests); what was judged is "
                "kept, and the same command goes on"
            )
        if self.tokens + most > self.max_tokens:
            raise CostCapError(
                f"{self.tokens:,} tokens are spent, and the next question may take {most:,}: more than "
                f"{self.max_tokens:,} (--max-tokens); what was judged is kept, and the same command goes on"
            )


def longest_cost(prompt: str, reply_tokens: int) -> int:
    """Return more tokens than a prompt and its longest reply are likely to take."""
    return len(prompt) // _CHARACTERS_PER_TOKEN + 1 + reply_tokens
