"""The page at `/`: put together from the files here into one that needs no other, and the headers it is served with."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

# One module in the end: each uses what those in front of it define.
_SCRIPTS = (
    "elements",
    "conversations",
    "media",
    "server",
    "answers",
    "routing",
    "showing",
    "actions",
    "events",
    "begin",
)
_INLINE = re.compile(rb"<(style|script)\b[^>]*>(.*?)</\1>", re.DOTALL)


def page() -> bytes:
    """Return the page as it is sent: UTF-8 HTML that needs no other file."""
    script = b"\n".join(_part(f"{name}.js") for name in _SCRIPTS)
    return (
        _part("index.html").replace(b"<!-- style.css -->\n", _part("style.css")).replace(b"<!-- scripts -->\n", script)
    )


def _part(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()


def page_headers(content: bytes) -> dict[str, str]:
    """Return the headers to send `content` with: its type, and what the browser may do with it.

    The content security policy (W3C, level 3) names the page's own script and style by their SHA-256, so that no other
    one runs, whatever a model answers, and allows requests to the page's own origin only. Trusted Types forbid the
    page's own script to turn text into HTML.
    """
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(content, b"script"),
        "style-src": _hashes(content, b"style"),
        "img-src": "data: blob:",
        "media-src": "blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # a newer cotune under the same address brings a newer page
    }


def _hashes(content: bytes, tag: bytes) -> str:
    """Return the sources of a policy that allow what stands between `<tag>` and `</tag>`, and nothing else."""
    blocks = [body for name, body in _INLINE.findall(content) if name == tag]
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in blocks)
