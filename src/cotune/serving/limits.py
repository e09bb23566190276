"""What one request, and all of them together, may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; the defaults suit one machine and questions about a few pictures or sounds.

    `rows` answers are computed at a time, `queue` requests wait for that, `connections` are open. One request may take
    `seconds` in all, its header `header_seconds` and its body `body_seconds` to arrive, and each piece of the answer
    `write_seconds` to be taken. A body has at most `body_bytes`, all bodies together `all_bodies_bytes`; a
    conversation `messages` turns with `characters` characters of text and `media` pictures and sounds, a picture
    `pixels` pixels, a sound `sound_seconds` seconds. Prompts have at most `prompt_tokens` tokens, answers
    `answer_tokens`, both no more than the model's own context.
    """

    rows: int = 8
    queue: int = 64
    connections: int = 256
    seconds: float = 120.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    body_bytes: int = 24 * 2**20
    all_bodies_bytes: int = 192 * 2**20
    messages: int = 200
    characters: int = 100_000
    media: int = 8
    pixels: int = 25_000_000
    sound_seconds: float = 600.0
    prompt_tokens: int = 8192
    answer_tokens: int = 1024
