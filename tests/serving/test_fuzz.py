"""Whatever is sent, the server says no politely, tells nothing about itself, and answers the next good request."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.model.test_joined_media import picture, sound
from tests.serving.live_server import Live, audio_part, image_part, picture_url, question
from tests.serving.test_safety import resident

BODIES = 500
# What would tell a stranger where the server lies or how it is made.
TELLING = re.compile(rb"Traceback|site-packages|/home/|/root|/tmp|/work|\.py\b|object at 0x|pydantic|uvicorn|torch")


def broken_text(body: bytes, dice: random.Random) -> bytes:
    """Return a body with bytes changed, cut, repeated or put in."""
    place = dice.randrange(len(body))
    return dice.choice(
        [
            body[:place],
            body[place:],
            body[:place] + bytes(dice.randrange(256) for _ in range(5)) + body[place:],
            body[:place] + body[place + 1 :],
            body + body,
            body.replace(b'"', b"'"),
            body.replace(b":", b"::", 1),
            b"\xff\xfe" + body,
            body.decode().encode("utf-16"),
        ]
    )


ODD: list[Any] = [
    None, True, -1, 0, 10**400, 1e308, "", "\x00", "\u202e", "a" * 50_000, [], {}, [[]], {"a": {}}, [None], "💥" * 100,
    {"type": "text"}, {"type": "image_url"}, ["text"], "data:image/png;base64,", "file:///etc/passwd", "../../etc",
]  # fmt: skip


def odd_value(body: bytes, dice: random.Random) -> bytes:
    """Return a body in which one value, anywhere, is another one or missing."""
    value = json.loads(body)
    places: list[tuple[Any, Any]] = []

    def walk(found: Any) -> None:
        keys = list(found) if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
        for key in keys:
            places.append((found, key))
            walk(found[key])

    walk(value)
    holder, key = dice.choice(places)
    if dice.random() < 0.15:
        del holder[key]
    elif isinstance(holder, dict) and dice.random() < 0.15:
        holder[dice.choice(["", "stream\u0000", "x" * 1000, "__class__", "tools"])] = dice.choice(ODD)
    else:
        holder[key] = dice.choice(ODD)
    return json.dumps(value).encode()


RAW = [
    b"", b"null", b"[]", b"{}", b'"', b"{" * 100_000, b"[" * 100_000, b'{"a":' * 50_000, b"1e999", b"NaN", b"\x00" * 99,
    b'{"model": "\\ud800"}', b'{"model": "tiny", "model": 1}', b'{"temperature": NaN}', b'{"temperature": -Infinity}',
    b'{"messages": [' + b'{"role": "user", "content": "a"},' * 30_000 + b"]}", b"9" * 100_000, b"\xf0\x9f" * 1000,
]  # fmt: skip


def damaged_medium(body: bytes, dice: random.Random) -> bytes:
    """Return a body whose picture or sound has some characters changed."""
    text = body.decode()
    start = text.index("base64,") + 7 if "base64," in text else text.index('"data": "') + 9
    end = text.index('"', start)
    for _ in range(dice.randrange(1, 20)):
        place = dice.randrange(start, end)
        text = text[:place] + dice.choice("ABab01+/=-!") + text[place + 1 :]
    return text.encode()


MISHAPS: list[Callable[[bytes, random.Random], bytes]] = [
    broken_text,
    odd_value,
    odd_value,
    lambda _, dice: dice.choice(RAW),
    damaged_medium,
]


def test_no_bad_body_brings_the_server_down_or_makes_it_tell(live: Live, tiny_root: Path) -> None:
    dice = random.Random(7)
    parts = [image_part(picture_url(picture(tiny_root, 0).path)), audio_part(sound(tiny_root, 0).path)]
    good = [question(parts=[part], stop=["a", "b"], seed=1, temperature=0.5, max_tokens=2) for part in parts]
    right = live.post(good[0]).json()["choices"]
    statuses: dict[int, int] = {}
    before = 0
    with httpx.Client(base_url=live.url, timeout=60, headers={"content-type": "application/json"}) as client:
        for number in range(BODIES):
            body = json.dumps(dice.choice(good)).encode()
            sent = dice.choice(MISHAPS)(body, dice)
            answer = client.post("/v1/chat/completions", content=sent)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (sent[:300], answer.text[:300])
            assert not TELLING.search(answer.content.split(b'"choices"')[0]), (sent[:300], answer.text[:300])
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"] and len(answer.content) < 5_000
            if number == BODIES // 4:
                before = resident()
    assert statuses[400] > BODIES // 2
    assert live.post(good[0]).json()["choices"] == right
    if before:
        assert resident() - before < 60_000_000


def test_no_bad_request_line_or_header_does_either(live: Live) -> None:
    dice = random.Random(3)
    host = f"host: localhost:{live.port}\r\n".encode()
    lines = [
        b"GET /../../etc/passwd HTTP/1.1\r\n" + host,
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + host,
        b"GET /v1/models/..%2f..%2fetc HTTP/1.1\r\n" + host,
        b"GET /%00 HTTP/1.1\r\n" + host,
        b"GET http://evil.example/ HTTP/1.1\r\n" + host,
        b"BREW / HTTP/1.1\r\n" + host,
        b"GET / HTTP/9.9\r\n" + host,
        b"GET / HTTP/1.1\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: -1\r\n" + host,
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 9e9\r\n" + host,
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n" + host,
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n" + host,
        b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n" + host,
        b"PRI * HTTP/2.0\r\n",
        bytes(dice.randrange(256) for _ in range(300)) + b"\r\n",
    ]
    for line in lines:
        said = live.raw(line + b"connection: close\r\n\r\n", seconds=60)
        assert re.match(rb"HTTP/1.1 [234]\d\d ", said), (line, said[:200])
        if b"text/html" not in said.partition(b"\r\n\r\n")[0]:
            assert not TELLING.search(said), (line, said)
    assert live.post(question()).status_code == 200


CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = settings(
    max_examples=30, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def statuses_of(live: Live, operation: Any, mode: GenerationMode) -> set[int]:
    """Return how an operation answers what its description allows or forbids, every answer checked."""
    seen: set[int] = set()

    @EXAMPLES
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call(base_url=live.url, timeout=60)
        seen.add(answer.status_code)
        assert answer.status_code < 500
        assert not TELLING.search(answer.content)
        case.validate_response(answer, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE and operation.method == "get"  # nothing to get wrong
    return seen


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
def test_the_description_holds_for_what_it_allows_and_what_it_forbids(live: Live, mode: GenerationMode) -> None:
    description = httpx.get(f"{live.url}/openapi.json").json()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(description).get_all_operations()]
    seen = {operation.path: statuses_of(live, operation, mode) for operation in operations}
    assert len(seen) == 5
    asked = seen["/v1/chat/completions"]
    assert 400 in asked and (200 in asked or mode is GenerationMode.NEGATIVE)
    assert live.post(question()).status_code == 200
