"""Runs other programs (pip, apt-get, dpkg-deb): the one place where quickstart starts a process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.2


class CommandResult(NamedTuple):
    """How a program ended: its exit code and everything it wrote to stderr."""

    code: int
    errors: str

    @property
    def last_line(self) -> str:
        """The last line that states an error, else the last line that is not empty."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        stated = [line for line in lines if line.startswith(("ERROR:", "E:", "dpkg-deb: error"))]
        return (stated or lines or [f"(no message, exit code {self.code})"])[-1]


def run_command(command: Sequence[str], folder: Path, while_running: Callable[[], None]) -> CommandResult:
    """Run a program in `folder` to its end and return how it ended; calls `while_running` several times a second.

    The program's temporary files go into `folder` as well, so that they lie on the disk that was checked for
    space, can be watched while they grow, and vanish with the folder.
    """
    # Messages are told apart by their English text.
    environment = os.environ | {"TMPDIR": str(folder), "LC_ALL": "C", "LANGUAGE": "C"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        while True:
            try:
                _, errors = process.communicate(timeout=POLL_SECONDS)
                return CommandResult(process.returncode, errors)
            except subprocess.TimeoutExpired:
                while_running()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
