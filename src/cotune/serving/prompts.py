"""From a request to a prompt for the engine, within the limits."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from cotune.adapters.sites import text_config
from cotune.errors import ModelError, RequestError
from cotune.messages import Message, Part, Role, Text
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.chat_request import ChatRequest, TextPart, Turn
from cotune.serving.chat_request import ImagePart as PicturePart
from cotune.serving.client_media import ClientMedium, MediaDecoder
from cotune.serving.generation import Prompt
from cotune.serving.limits import Limits

_ROLES: dict[str, Role] = {"developer": "system"}


@dataclass(frozen=True)
class Question:
    """A prompt, the longest answer it may have, and what the client should know about how it was read."""

    prompt: Prompt
    max_tokens: int
    notes: list[str]


class PromptMaker:
    """Makes prompts of requests; several threads may ask it at a time."""

    def __init__(self, model: MultimodalLM, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self._decoder = MediaDecoder(model, limits)
        # Fast tokenizers refuse to be used by two threads at once.
        self._tokenizing = threading.Lock()
        self.context = int(getattr(text_config(model.llm), "max_position_embeddings", None) or 2**31)

    def question(self, request: ChatRequest) -> Question:
        """Return what a request asks.

        Raises:
            RequestError: 400, for a conversation beyond a limit, a medium that cannot be used, or one that the model's
                chat template refuses.
        """
        self._check_size(request)
        media: dict[str, ClientMedium] = {}
        messages = [self._message(f"messages.{place}", turn, media) for place, turn in enumerate(request.messages)]
        prompt = self._prompt(messages, media)
        return Question(prompt, self._longest(request, prompt), [found.note for found in media.values() if found.note])

    def _check_size(self, request: ChatRequest) -> None:
        limits, turns = self.limits, request.messages
        if len(turns) > limits.messages:
            raise RequestError(
                400, f"messages: {len(turns)} turns; at most {limits.messages} are read", param="messages"
            )
        parts = [part for turn in turns if not isinstance(turn.content, str) for part in turn.content]
        media = sum(not isinstance(part, TextPart) for part in parts)
        if media > limits.media:
            raise RequestError(
                400, f"messages: {media} pictures and sounds; at most {limits.media} are taken", param="messages"
            )
        written = sum(len(turn.content) for turn in turns if isinstance(turn.content, str))
        written += sum(len(part.text) for part in parts if isinstance(part, TextPart))
        if written > limits.characters or len(parts) > limits.characters // 100:
            raise RequestError(
                400,
                f"messages: {written:,} characters in {len(parts):,} parts; at most {limits.characters:,} are read",
                code="context_length_exceeded",
                param="messages",
            )

    def _message(self, place: str, turn: Turn, media: dict[str, ClientMedium]) -> Message:
        if isinstance(turn.content, str):
            parts: list[Part] = [Text(turn.content)]
        else:
            parts = [
                self._part(f"{place}.content.{number}", turn, part, media) for number, part in enumerate(turn.content)
            ]
        return Message(_ROLES.get(turn.role, turn.role), tuple(parts))  # type: ignore[arg-type]

    def _part(self, place: str, turn: Turn, part: Any, media: dict[str, ClientMedium]) -> Part:
        if isinstance(part, TextPart):
            return Text(part.text)
        if turn.role != "user":
            raise RequestError(400, f"{place}: only a user's turn may hold pictures and sounds", param=place)
        if isinstance(part, PicturePart):
            media[place] = self._decoder.picture(part.image_url.url, place)
        else:
            media[place] = self._decoder.sound(part.input_audio.data, place)
        return media[place].part

    def _prompt(self, messages: list[Message], media: dict[str, ClientMedium]) -> Prompt:
        try:
            with self._tokenizing:
                encoded = self.model.template.prompt(messages)
        except ModelError as error:
            # The rest of the text names settings of the recipe, which no client can change.
            raise RequestError(400, f"messages: {str(error).partition(';')[0]}", param="messages") from None
        longest = min(self.limits.prompt_tokens, self.context - 1)
        if len(encoded) > longest:
            raise RequestError(
                400,
                f"messages: {len(encoded):,} tokens; at most {longest:,} are read",
                code="context_length_exceeded",
                param="messages",
            )
        return Prompt(encoded, {str(found.part.path): found.made for found in media.values()})

    def _longest(self, request: ChatRequest, prompt: Prompt) -> int:
        """Return the longest answer: what was asked for, within the limit and the model's context."""
        room = min(self.limits.answer_tokens, self.context - len(prompt.encoded))
        for name in ("max_completion_tokens", "max_tokens"):
            asked: int | None = getattr(request, name)
            if asked is None:
                continue
            if asked > room:
                raise RequestError(
                    400,
                    f"{name}: {asked:,}; behind this prompt an answer has at most {room:,} tokens",
                    code="context_length_exceeded" if room < self.limits.answer_tokens else None,
                    param=name,
                )
            return asked
        return room
