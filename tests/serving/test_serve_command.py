"""`cotune serve` as a user types it: refused before the model is read, served until a signal, and left politely."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.command_line import run
from tests.evaluation.harnesses.tuned_run import save_tuned_run


def test_an_open_address_without_a_key_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COTUNE_API_KEY", raising=False)
    assert run("serve", str(tmp_path), "--host", "0.0.0.0") == 1
    assert "--api-key" in capsys.readouterr().err
    assert run("serve", str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--api-key", "secret") == 1
    assert "recipe.yaml" in capsys.readouterr().err


@pytest.fixture
def heard() -> Iterator[None]:
    """A process started meanwhile hears Ctrl-C, also where these tests do not: shells start background jobs so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_a_run_is_served_until_a_signal(root: Path) -> None:
    folder = save_tuned_run(root)
    command = [sys.executable, "-m", "cotune", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COTUNE_API_KEY": "from the environment".replace(" ", "-")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        lines = []
        while "Serving" not in (lines or [""])[-1]:
            line = server.stdout.readline()
            assert line, server.stderr.read()
            lines.append(line)
        assert any(re.match(r"Folded: image, .* relative logit difference", line) for line in lines)
        assert "Paths: text base, image folded\n" in lines
        address = re.search(r"http://\S+", lines[-1])
        assert address is not None
        body = {"model": "tuned", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        asked = {"json": body, "timeout": 60}
        for _ in range(100):  # the line is printed just before the port is open
            try:
                assert httpx.post(f"{address[0]}/v1/chat/completions", **asked).status_code == 401
                break
            except httpx.ConnectError:
                continue
        shown = {"authorization": "Bearer from-the-environment"}
        answer = httpx.post(f"{address[0]}/v1/chat/completions", headers=shown, **asked)
        assert answer.json()["usage"]["completion_tokens"] <= 3
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert "Traceback" not in server.stderr.read()
