"""What strangers may not do: reach the model without a key, through another site's page, or by being large or slow."""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cotune.errors import ServeError
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.limits import Limits
from cotune.serving.server import bind, check_key, is_loopback
from tests.model.test_joined_media import picture, sound
from tests.serving.live_server import (
    Live,
    audio_part,
    image_part,
    live_server,
    made_picture,
    picture_url,
    question,
)

SMALL = Limits(
    header_seconds=1.0,
    body_seconds=1.0,
    write_seconds=1.0,
    connections=12,
    body_bytes=200_000,
    all_bodies_bytes=500_000,
    pixels=10_000,
    sound_seconds=1.0,
    media=3,
    messages=10,
    characters=2_000,
    answer_tokens=10**6,
)


@pytest.fixture(scope="module")
def small(served_model: MultimodalLM) -> Iterator[Live]:
    with live_server(served_model, SMALL) as running:
        yield running


@pytest.fixture(autouse=True)
def answers_afterwards(small: Live) -> Iterator[None]:
    yield
    assert small.post(question()).status_code == 200


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the text of an error that is written as the API writes errors."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["message"]


# Where from


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_an_address_that_others_reach_demands_a_key(host: str) -> None:
    with pytest.raises(ServeError, match="--api-key"):
        check_key(host, None)
    check_key(host, "secret")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert is_loopback(host)
    check_key(host, None)


@pytest.mark.parametrize("key", ["", " ", "two words ", "schlüssel", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ServeError, match="--api-key"):
        check_key("127.0.0.1", key)


def test_a_port_that_is_taken_is_said(small: Live) -> None:
    with pytest.raises(ServeError, match="--port"):
        bind("127.0.0.1", small.port)


def test_without_the_key_there_is_nothing_but_the_page(served_model: MultimodalLM) -> None:
    with live_server(served_model, key="secret") as live:
        for shown in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                assert httpx.get(live.url + path, headers=shown).status_code == 401
            answer = live.post(question(), headers=shown)
            assert refusal(answer)[0] == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(live.url).status_code == httpx.get(f"{live.url}/health").status_code == 200
        assert live.post(question(), headers={"authorization": "Bearer secret"}).status_code == 200


def test_the_body_of_a_stranger_is_not_read(served_model: MultimodalLM) -> None:
    with live_server(served_model, key="secret") as live:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        said = live.raw(head + b"content-length: 1000000\r\n\r\n{")
        assert said.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_another_name_that_points_here_is_refused(small: Live, host: str) -> None:
    assert refusal(small.post(question(), headers={"host": host}))[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_the_page_of_another_site_is_refused_and_told_nothing(small: Live, origin: str) -> None:
    answer = small.post(question(), headers={"origin": origin})
    assert refusal(answer)[0] == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = httpx.options(f"{small.url}/v1/chat/completions", headers={"origin": origin})
    assert asked.status_code == 403


def test_the_own_page_is_let_in_and_others_get_no_permission(small: Live) -> None:
    assert small.post(question(), headers={"origin": small.url}).status_code == 200
    asked = httpx.options(f"{small.url}/v1/chat/completions", headers={"access-control-request-method": "POST"})
    assert asked.status_code == 405 and "access-control-allow-origin" not in asked.headers


def test_a_form_of_another_site_sends_no_json(small: Live) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert refusal(small.post(b'{"model": "tiny"}', headers={"content-type": kind}))[0] == 415


def test_the_page_may_run_nothing_but_itself(small: Live) -> None:
    answer = httpx.get(small.url)
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert small.post(question()).headers["x-content-type-options"] == "nosniff"


# How large


def test_a_body_too_large_is_refused_by_its_header_and_by_its_length(small: Live) -> None:
    body = b'{"model": "' + b"a" * 300_000 + b'"}'
    assert refusal(small.post(body))[0] == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"a" * 10_000

    with httpx.Client(timeout=60) as client:
        answer = client.post(
            f"{small.url}/v1/chat/completions", content=chunks(), headers={"content-type": "application/json"}
        )
    assert refusal(answer)[0] == 413


def test_many_large_bodies_at_once_wait_their_turn(small: Live) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:{small.port}\r\n"
    head += "content-type: application/json\r\ncontent-length: 190000\r\n\r\n"
    held = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(3)]
    try:
        for connection in held:
            connection.sendall(head.encode())
        answers = [connection.recv(20) for connection in held]
    finally:
        for connection in held:
            connection.close()
    assert sorted(answer[9:12] for answer in answers) == [b"408", b"408", b"429"]


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "turns": ({"messages": [{"role": "user", "content": "a"}] * 11}, "at most 10 are read"),
    "text": ({"messages": [{"role": "user", "content": "a" * 2001}]}, "at most 2,000 are read"),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 500}]}, "500 parts"),
    "media": (
        {"messages": [{"role": "user", "content": [image_part(made_picture((2, 2)))] * 4}]},
        "at most 3 are taken",
    ),
}


@pytest.mark.parametrize("changes, said", TOO_MUCH.values(), ids=list(TOO_MUCH))
def test_too_much_of_a_conversation_is_refused(small: Live, changes: dict[str, Any], said: str) -> None:
    status, message = refusal(small.post({**question(), **changes}))
    assert status == 400 and said in message


@pytest.mark.parametrize("form, mode", [("PNG", "RGB"), ("PNG", "1"), ("JPEG", "L"), ("WEBP", "RGB"), ("GIF", "P")])
def test_a_small_file_that_becomes_a_large_picture_is_refused(small: Live, form: str, mode: str) -> None:
    status, message = refusal(small.post(question(parts=[image_part(made_picture((3000, 2000), form, mode))])))
    assert status == 400 and "3000 x 2000 pixels" in message


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, *, text: bool = False) -> str:
    """Return a PNG that claims a size, or one that holds a text of 100 MB, packed to next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    packed = zlib.compress(b"\0" * 100_000_000, 9)
    extra = chunk(b"zTXt", b"a\0\0" + packed) if text else b""
    body = chunk(b"IDAT", packed if not text else zlib.compress(b"\0" * (height * (3 * width + 1))))
    data = b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def resident() -> int:
    """Return the bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("url", [bomb(50_000, 50_000), bomb(8, 8), bomb(8, 8, text=True)], ids=["size", "data", "text"])
def test_a_decompression_bomb_costs_nothing(small: Live, url: str) -> None:
    before = resident()
    answer = small.post(question(parts=[image_part(url)]))
    assert answer.status_code == 400 or url == bomb(8, 8)  # what lies behind the last row is not unpacked
    assert resident() - before < 40_000_000


def test_a_sound_too_long_or_too_dense_is_refused(small: Live, tiny_root: Path, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    status, message = refusal(small.post(question(parts=[audio_part(sound(tiny_root, 3).path)])))
    assert status == 400 and "at most 1 s" in message
    soundfile.write(tmp_path / "dense.flac", np.zeros((60_000, 8), np.int16), 600_000)
    status, message = refusal(small.post(question(parts=[audio_part(tmp_path / "dense.flac")])))
    assert status == 400 and "8 channels at 600000 Hz" in message


NO_MEDIA = {
    "text for a picture": image_part("data:image/png;base64," + base64.b64encode(b"nothing").decode()),
    "no base64": image_part("data:image/png;base64,%%%%"),
    "nothing": image_part("data:image/png;base64,"),
    "a script": image_part("data:image/svg+xml;base64,PHN2Zy8+"),
    "postscript": image_part("data:image/png;base64," + base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n").decode()),
    "tiff": image_part("data:image/png;base64," + base64.b64encode(b"II*\0\x08\0\0\0").decode()),
    "a path": {"type": "input_audio", "input_audio": {"data": "/etc/passwd", "format": "wav"}},
    "noise": {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
}


@pytest.mark.parametrize("part", NO_MEDIA.values(), ids=list(NO_MEDIA))
def test_what_is_no_medium_is_refused_without_a_word_about_this_machine(small: Live, part: dict[str, Any]) -> None:
    status, message = refusal(small.post(question(parts=[part])))
    assert status == 400
    assert not re.search(r"0x[0-9a-f]{6}|Traceback|site-packages|/home|/root|/tmp|\.py", message)


# How slow


def test_a_flood_of_headers_is_refused(small: Live) -> None:
    said = small.raw(
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(20_000))
    )
    assert said.startswith(b"HTTP/1.1 400") and b'"error"' in said


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow:"], ids=["none", "some", "half"])
def test_who_dawdles_over_the_header_is_sent_away(small: Live, sent: bytes) -> None:
    begun = time.monotonic()
    assert small.raw(sent).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begun < Limits().header_seconds  # its own limit, not the default


def test_who_dawdles_over_the_second_header_is_sent_away_too(small: Live) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=60) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nhost: localhost:{small.port}\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert b"HTTP/1.1 408" in received  # behind what was left of the first answer


def test_who_dawdles_over_the_body_is_sent_away(small: Live) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:{small.port}\r\ncontent-type: application/json\r\n"
    said = small.raw(head.encode() + b"content-length: 100\r\n\r\n{")
    assert said.startswith(b"HTTP/1.1 408")


def test_one_connection_too_many_is_sent_away(small: Live) -> None:
    held = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(SMALL.connections)]
    try:
        time.sleep(0.1)
        assert small.raw(b"").startswith(b"HTTP/1.1 429")
    finally:
        for connection in held:
            connection.close()
        time.sleep(0.1)


def test_who_never_reads_what_he_asked_for_is_cut_off(served_model: MultimodalLM) -> None:
    with live_server(served_model, SMALL) as live, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        request = f"GET / HTTP/1.1\r\nhost: localhost:{live.port}\r\n\r\n".encode()
        whole = 400 * len(httpx.get(live.url).content)
        assert whole > 2 * 2**22  # more than the system buffers for a connection
        connection.sendall(request * 400)
        limit = time.monotonic() + 60
        while live.server.server_state.connections and time.monotonic() < limit:
            time.sleep(0.02)
        assert not live.server.server_state.connections
        received = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(2**20):
                received += len(part)
        assert received < whole


@pytest.fixture
def endless(served_model: MultimodalLM) -> Iterator[None]:
    """Let answers end at their longest only."""
    stop_ids = set(served_model.template.stop_ids)
    served_model.template.stop_ids.clear()
    yield
    served_model.template.stop_ids.update(stop_ids)


def until_idle(live: Live, seconds: float = 60.0) -> bool:
    limit = time.monotonic() + seconds
    while live.engine.running and time.monotonic() < limit:
        time.sleep(0.01)
    return not live.engine.running


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_client_asked_who_went_away_is_not_computed(
    served_model: MultimodalLM, endless: None, stream: bool
) -> None:
    served_model.llm.config.max_position_embeddings, before = 10**6, served_model.llm.config.max_position_embeddings
    try:
        with live_server(served_model, SMALL) as live:
            with socket.create_connection(("127.0.0.1", live.port)) as connection:
                connection.sendall(request_bytes(live, max_tokens=10**5, stream=stream))
                while not live.engine.running:
                    time.sleep(0.005)
            assert until_idle(live)
    finally:
        served_model.llm.config.max_position_embeddings = before


def request_bytes(live: Live, **options: Any) -> bytes:
    import json

    body = json.dumps(question(**options)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:{live.port}\r\ncontent-type: application/json\r\n"
    return head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body


def test_leaving_finishes_what_runs_and_turns_the_rest_away(served_model: MultimodalLM, endless: None) -> None:
    with live_server(served_model, Limits(rows=1)) as live:
        found: dict[str, httpx.Response] = {}

        def ask(name: str, length: int) -> None:
            found[name] = live.post(question(max_tokens=length))

        running = threading.Thread(target=ask, args=("running", 300))
        running.start()
        while not live.engine.running:
            time.sleep(0.005)
        waiting = threading.Thread(target=ask, args=("waiting", 5))
        waiting.start()
        while not live.engine.waiting:
            time.sleep(0.005)
        live.server.handle_exit(15, None)
        for thread in (running, waiting):
            thread.join(60)
        assert found["running"].json()["usage"]["completion_tokens"] == 300
        assert found["waiting"].status_code == 429
        with pytest.raises(httpx.ConnectError):
            for _ in range(50):
                httpx.get(f"{live.url}/health")
                time.sleep(0.1)


def test_a_picture_of_this_machine_cannot_be_asked_for(small: Live, tiny_root: Path) -> None:
    for url in (f"file://{picture(tiny_root, 0).path}", str(picture(tiny_root, 0).path), "http://localhost:1/a.png"):
        status, message = refusal(small.post(question(parts=[image_part(url)])))
        assert status == 400 and "nothing is fetched" in message
    assert small.post(question(parts=[image_part(picture_url(picture(tiny_root, 0).path))])).status_code == 200
