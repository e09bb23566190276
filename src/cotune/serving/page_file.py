"""The page at `/`: one file of the package, and a policy under which nothing but what stands in it can run."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

_BLOCK = re.compile(rb"<(script|style)(?:\s[^>]*)?>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_FILE = "page/index.html"


def read_page() -> bytes | None:
    """Return the page, or None where the package has none."""
    found = resources.files("cotune.serving").joinpath(_FILE)
    return found.read_bytes() if found.is_file() else None


def content_policy(page: bytes) -> str:
    """Return the Content-Security-Policy of a page: its own scripts and styles by their hashes, and nothing else.

    It may show and play what the user chose (data: and blob:) and talk to its own server. Its own script may not turn
    text into HTML (Trusted Types), so that a slip of the page could not either.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _BLOCK.findall(page):
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        hashes[kind.decode().lower()].append(f"'sha256-{digest}'")
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(hashes["script"]) or "'none'",
        "style-src": " ".join(hashes["style"]) or "'none'",
        "img-src": "'self' data: blob:",
        "media-src": "data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
