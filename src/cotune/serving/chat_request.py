"""A request for an answer as the OpenAI API writes it, read strictly: what would change the answer and is not done here
is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from cotune.errors import RequestError

_SHOWN = 5
_LONGEST = 200
# Where a value may be of several kinds, the kind stands in pydantic's place of a mistake; it is no key of the request.
_KINDS = ("as-text", "as-parts", "as-list")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(_Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageURL(_Strict):
    """A picture as a data URL. `detail` changes nothing: the encoder has one size."""

    url: str = Field(pattern=r"^data:image/(png|jpeg|webp|gif);base64,")
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageURL


class InputAudio(_Strict):
    """A sound in base64. Its own header says what it is; `format` is not relied on."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class AudioPart(_Strict):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


def _kind(value: Any) -> str:
    return "as-text" if isinstance(value, str) else "as-parts"


class Turn(_Strict):
    """One turn of the conversation. Clients send an answer back with empty fields of its own; they may be there."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("as-text")] | Annotated[list[Part], Field(min_length=1), Tag("as-parts")],
        Discriminator(_kind),
    ]
    refusal: None = None
    annotations: Annotated[list[None], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Strict):
    """The only format answers have."""

    type: Literal["text"]


_StopText = Annotated[str, Field(min_length=1, max_length=200)]


# Keys that are known to be taken only while they change nothing.
_NOT_DONE = frozenset(
    [
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "logit_bias",
        "response_format",
        "modalities",
        "tools",
        "tool_choice",
        "store",
    ]
)


def _stop_kind(value: Any) -> str:
    return "as-text" if isinstance(value, str) else "as-list"


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`.

    `temperature` is 0 unless given: the same question has the same answer, as in every evaluation. The last group
    holds what other servers know: a value that would change the answer is refused, one that would not is taken.
    """

    model: str = Field(max_length=_LONGEST)
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: (
        Annotated[
            Annotated[_StopText, Tag("as-text")]
            | Annotated[list[_StopText], Field(min_length=1, max_length=4), Tag("as-list")],
            Discriminator(_stop_kind),
        ]
        | None
    ) = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    tools: Annotated[list[None], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def read_request(body: bytes) -> ChatRequest:
    """Return what a body asks for.

    Raises:
        RequestError: 400, naming every key that is wrong.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [".".join(str(key) for key in each["loc"] if key not in _KINDS) for each in found]
        lines = [f"{place or 'body'}: {_said(each)}" for place, each in zip(places, found, strict=True)]
        said = "; ".join(line[:_LONGEST] for line in lines[:_SHOWN])
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        unknown = any(each["type"] == "extra_forbidden" for each in found)
        raise RequestError(
            400, said + more, code="unknown_parameter" if unknown else None, param=places[0][:_LONGEST] or None
        ) from None


def _said(found: Any) -> str:
    """Return what is wrong with a value, in pydantic's words but where they would not help."""
    if found["loc"] and found["loc"][0] in _NOT_DONE:
        return "this server does not do that; leave it out"
    if found["type"] == "string_pattern_mismatch":  # the only pattern is that of a picture
        return "send the picture itself, as data:image/png;base64,... (or jpeg, webp, gif); nothing is fetched"
    text: str = found["msg"]
    return text
