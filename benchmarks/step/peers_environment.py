"""The peers' own environment: a virtual environment with the versions of constraints.txt, made once and kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from cotune.quickstart import cache_folder

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
PACKAGES = ("transformers", "accelerate", "trl", "peft", "datasets", "safetensors")


def peers_python(console: Console) -> Path:
    """Return the Python of the peers' environment, which is made where it is not there yet (about 1.5 GB).

    Raises:
        subprocess.CalledProcessError: when something could not be installed; the next try begins anew.
    """
    pins = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / "benchmarks" / f"peers-{pins}"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    with console.status(f"Installing the peers in {folder}"):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS]
        # First and by itself, so that nothing else chooses its build.
        subprocess.run([*install, pinned("torch")], check=True)
        subprocess.run([*install, *PACKAGES], check=True)
    done.touch()
    return python


def pinned(package: str) -> str:
    """Return a package with its version, as the constraints have it."""
    return next(
        line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{package}==")
    )
