"""From a conversation to token ids: which tokens carry loss, and where the features of each picture go.

The conversation is rendered by the tokenizer's own chat template and cut where an answer begins and ends; each piece
is tokenised by itself. So a prompt has the same ids whether its answer stands behind it (training) or not
(generation), for every tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cotune.errors import ModelError
from cotune.messages import MEDIA_OF_PART, Message, Sample, Text

IGNORED = -100
# Marks a picture or sound in rendered text; private-use characters never stand in real text or in a template.
_MARKS = {"image": "\ue0f1", "audio": "\ue0f2"}

NAMED_TEMPLATES = {
    # ChatML without the default system message that some models insert.
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "instruction": (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] + "
        "eos_token + '\\n' }}"
        "{% elif message['role'] == 'user' %}{{ 'Instruction: ' + message['content'] + '\\nResponse: ' }}"
        "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
    ),
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised sample.

    `targets[i]` is the token to predict at position i, or -100 where nothing is learned; `feature_mask[i]` is true
    where a feature token stands (its id is only a filler). All three have the same length.
    """

    tokens: list[int]
    targets: list[int]
    feature_mask: list[bool]
    sample: Sample

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def answer_tokens(self) -> int:
        """How many tokens carry loss."""
        return sum(target != IGNORED for target in self.targets)


class Template:
    """Encodes conversations for one tokenizer; `media_tokens` says how many feature tokens a picture or sound takes."""

    def __init__(self, tokenizer: Any, media_tokens: dict[str, int], chat_template: str | None = None) -> None:
        self.tokenizer, self.media_tokens = tokenizer, media_tokens
        self._template = NAMED_TEMPLATES.get(chat_template or "", chat_template)
        if self._template is None and not tokenizer.chat_template:
            self._template = NAMED_TEMPLATES["instruction"]
        self.stop_ids = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
        self.filler = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)

    def encode(self, sample: Sample) -> Encoded:
        """Return the sample with every assistant turn carrying loss, up to and including its stop token."""
        pieces = list(self._pieces(sample.messages))
        tokens, learned, feature_mask = [], [], []
        for text, is_answer in pieces:
            ids, is_feature = self._tokenise(text)
            if is_answer:
                ids, learned_here = self._until_stop(ids)
                is_feature = is_feature[: len(ids)]
            else:
                learned_here = [False] * len(ids)
            tokens += ids
            learned += learned_here
            feature_mask += is_feature
        # The last token is never an input: nothing is predicted behind it.
        while learned and not learned[-1]:
            tokens.pop(), learned.pop(), feature_mask.pop()
        targets = [token if learn else IGNORED for token, learn in zip(tokens[1:], learned[1:], strict=True)]
        return Encoded(tokens[:-1], targets, feature_mask[:-1], sample)

    def prompt(self, messages: Sequence[Message]) -> Encoded:
        """Return the conversation up to where the model's answer begins; nothing carries loss."""
        tokens, feature_mask = self._tokenise(self._render(messages, generate=True))
        sample = Sample("prompt", tuple(messages))
        return Encoded(tokens, [IGNORED] * len(tokens), feature_mask, sample)

    def _pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """Return the rendered conversation cut into (text, is an answer) pieces."""
        pieces: list[tuple[str, bool]] = []
        done = 0
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self._render(messages[:index], generate=True)
            whole = self._render(messages[: index + 1], generate=False)
            if not whole.startswith(prompt):
                raise ModelError(
                    "the chat template renders a conversation differently once it is answered, so the answer cannot be "
                    "told from the prompt; set model.llm.chat_template to 'chatml' or to a template of your own"
                )
            pieces += [(prompt[done:], False), (whole[len(prompt) :], True)]
            done = len(whole)
        return pieces

    def _render(self, messages: Sequence[Message], *, generate: bool) -> str:
        plain = [{"role": message.role, "content": _content(message)} for message in messages]
        text: str = self.tokenizer.apply_chat_template(
            plain, chat_template=self._template, tokenize=False, add_generation_prompt=generate
        )
        return text

    def _tokenise(self, text: str) -> tuple[list[int], list[bool]]:
        """Return ids and which of them are feature fillers; each mark becomes its medium's number of fillers."""
        ids: list[int] = []
        mask: list[bool] = []
        for piece, medium in _split_at_marks(text):
            if medium:
                count = self.media_tokens.get(medium)
                if count is None:
                    raise ModelError(f"a message holds {medium}, but model.encoders names no encoder for it")
                ids += [self.filler] * count
                mask += [True] * count
            elif piece:
                new = self.tokenizer(piece, add_special_tokens=False).input_ids
                ids += new
                mask += [False] * len(new)
        return ids, mask

    def _until_stop(self, ids: list[int]) -> tuple[list[int], list[bool]]:
        """Return an answer's ids and which are learned: all up to the first stop token, which is added if missing."""
        stop = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        if stop is None:
            ids = [*ids, *sorted(self.stop_ids)[:1]]
            stop = len(ids) - 1
        return ids, [index <= stop for index in range(len(ids))]


def _content(message: Message) -> str:
    return "".join(part.text if isinstance(part, Text) else _MARKS[MEDIA_OF_PART[type(part)]] for part in message.parts)


def _split_at_marks(text: str) -> list[tuple[str, str]]:
    """Return the text as (piece, "") and ("", medium) in order."""
    media = {mark: medium for medium, mark in _MARKS.items()}
    result, piece = [], ""
    for character in text:
        if character in media:
            result += [(piece, ""), ("", media[character])]
            piece = ""
        else:
            piece += character
    return [*result, (piece, "")]
