"""The recipe's section on data: what is learned from, chosen on and scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from cotune.recipe.section import NonNegative, Part, Positive, Share, ShareBelowOne


class Balance(Part):
    """Draws a value of each `by` key in turn, uniformly among those left, then a sample that has them all.

    `shares` replaces the uniform draw of the first key. Values come from the sample's `meta`.
    """

    by: Annotated[list[str], Field(min_length=1)]
    shares: dict[str, Share] | None = None


class Conversation(Part):
    """Joins up to `turns` samples about the same media into one conversation, drawn anew every time.

    Earlier answers then stand in the text, from which the later questions are easier to learn; the first question of
    each is still answered from the media alone. The `single` share of draws stays one question.
    """

    turns: Annotated[int, Field(ge=2)]
    single: Share = 0.0


class Source(Part):
    """One data set: a file or folder, who reads it (`options` are that reader's), and how often it is drawn.

    Where nothing but the path is said, the path alone may stand for it.
    """

    path: str
    reader: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    media: str | None = None
    weight: Positive = 1.0
    limit: PositiveInt | None = None
    balance: Balance | None = None
    conversation: Conversation | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


def _in_list(value: Any) -> Any:
    """Return a source that stands alone as a list of it."""
    return [value] if isinstance(value, str | dict) else value


Sources = Annotated[list[Source], BeforeValidator(_in_list)]


class Data(Part):
    """What is learned from, chosen on and scored; a path in its place is trained on.

    `validation_share` holds that share of the training *images* (or samples without media) out of training.
    `blank_media` keeps the images out of the model's sight: the honest text-only baseline. `too_long` says what becomes
    of samples of more than `max_tokens` tokens: `error` refuses them before training, `drop` leaves them out,
    `cut-text` cuts text, never a picture or sound; what was left out or cut is counted and named. `bad_media` says what
    comes of samples whose pictures or sounds cannot be used: they stop the run, are dropped, or get a blank one in its
    place; `media_check: quick` looks at the beginning and the end of every file, `full` decodes it. Files outside of
    the media folder, and URLs, are refused unless allowed. What frozen encoders make of media is kept on disk, at most
    `kept_features_gb` (10^9 bytes) of it; the rest is computed for every batch. `workers` threads load media: those
    that are encoded before the first step, and those of coming steps where nothing is kept, as of an encoder that
    learns; no bit of a run depends on how many.
    """

    train: Annotated[Sources, Field(min_length=1)]
    validation_share: ShareBelowOne = 0.1
    test: Sources = Field(default_factory=list)
    blank_media: bool = False
    max_tokens: PositiveInt = 2048
    too_long: Literal["error", "drop", "cut-text"] = "drop"
    bad_media: Literal["error", "drop", "blank"] = "error"
    media_check: Literal["quick", "full"] = "quick"
    allow_outside_root: bool = False
    allow_urls: bool = False
    kept_features_gb: NonNegative = 20.0
    workers: Annotated[int, Field(ge=0)] = 2

    @property
    def features_room(self) -> int:
        """The bytes of encoded media that are kept on disk."""
        return int(self.kept_features_gb * 1e9)

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"train": [value]} if isinstance(value, str) else value
