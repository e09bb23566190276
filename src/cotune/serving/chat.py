"""A conversation with a tuned model: text, pictures and sounds, answers as they are made, the past kept computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cotune.data.collate import collate
from cotune.errors import ModelError
from cotune.messages import MEDIA_OF_PART, Audio, Image, Message, Sample, Text
from cotune.model.feature_cache import FeatureCache
from cotune.model.kept_prefix import KeptPrefix, identity
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.ways import path_of


@dataclass
class Chat:
    """A conversation: its turns so far, and the pictures and sounds that go with the next question."""

    model: MultimodalLM
    max_new_tokens: int = 256
    messages: list[Message] = field(default_factory=list)
    waiting: list[Image | Audio] = field(default_factory=list)
    kept: KeptPrefix = field(default_factory=KeptPrefix)

    def __post_init__(self) -> None:
        self._caches = {kind: FeatureCache(self.model.encoder(kind), None) for kind in self.model.encoders}

    def show(self, medium: Image | Audio) -> None:
        """Put a picture or sound in front of the next question.

        Raises:
            ModelError: when the model has no encoder for it.
            DataError: when the file cannot be read.
        """
        kind = MEDIA_OF_PART[type(medium)]
        if kind not in self._caches:
            raise ModelError(f"this model was tuned without an {kind} encoder; it cannot use {medium.path}")
        self._caches[kind].load(medium.path)  # named and refused now, not in the middle of an answer
        self._caches[kind].prepare([medium.path])
        self.waiting.append(medium)

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer to a question piece by piece; the finished turn joins the conversation.

        What was read before is not read again, unless the turn brings a new kind of medium: that changes the path of
        everything before it too.
        """
        turns = [*self.messages, Message("user", (*self.waiting, Text(question)))]
        prompt = self.model.template.prompt(turns)
        loaders = {kind: cache.rows for kind, cache in self._caches.items()}
        batch = collate([prompt], self.model.template.filler, loaders, pad_left=True)
        self.kept.reuse(identity(prompt), prompt.sample.modality)
        answer = ""
        try:
            for piece in self.model.stream(batch.to(self.model.device), self.max_new_tokens, self.kept):
                answer += piece
                yield piece
        except BaseException:
            self.kept.clear()  # stopped anywhere, some layers may have gone further than others
            raise
        self.kept.settle()
        self.messages = [*turns, Message("assistant", (Text(answer.strip()),))]
        self.waiting = []

    def reset(self) -> None:
        """Forget every turn, picture and sound."""
        self.messages, self.waiting = [], []
        self.kept.clear()

    @property
    def modality(self) -> str:
        """The modality set that answers: everything shown so far."""
        return Sample("chat", tuple(self.messages)).modality

    @property
    def is_base(self) -> bool:
        """Whether what answers is the base language model, unchanged."""
        return path_of(self.model, self.modality) == "base"
