"""Talk to a tuned model in the terminal: text and pictures in one conversation, answers as they are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cotune.data.collate import LoadMedia, collate
from cotune.data.media import load_image
from cotune.errors import CotuneError, ModelError
from cotune.messages import Image, Message, Part, Sample, Text
from cotune.model.feature_cache import FeatureCache
from cotune.model.multimodal_lm import MultimodalLM

HELP = "/image FILE shows a picture, /reset forgets the conversation, /quit ends it"


@dataclass
class Chat:
    """A conversation: its turns so far, and the picture that goes with the next question."""

    model: MultimodalLM
    max_new_tokens: int = 256
    messages: list[Message] = field(default_factory=list)
    waiting: list[Part] = field(default_factory=list)

    def show(self, path: Path) -> None:
        """Put a picture in front of the next question; raises DataError when it cannot be read."""
        if self.model.encoder is None:
            raise ModelError("this model was tuned without an image encoder; it cannot look at pictures")
        load_image(path)
        self.waiting.append(Image(path))

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer to a question piece by piece; the finished turn joins the conversation.

        Every turn reads the whole conversation again under the modality it now has: a picture that comes later
        changes the path of everything before it too, and a kept cache would be wrong.
        """
        turns = [*self.messages, Message("user", (*self.waiting, Text(question)))]
        batch = collate([self.model.template.prompt(turns)], self.model.template.filler, self._media(), pad_left=True)
        answer = ""
        for piece in self.model.stream(batch.to(self.model.device), self.max_new_tokens):
            answer += piece
            yield piece
        self.messages = [*turns, Message("assistant", (Text(answer.strip()),))]
        self.waiting = []

    def reset(self) -> None:
        """Forget every turn and picture."""
        self.messages, self.waiting = [], []

    @property
    def modality(self) -> str:
        """The modality set that answers: everything shown so far."""
        return Sample("chat", tuple(self.messages)).modality

    def _media(self) -> LoadMedia | None:
        if self.model.encoder is None:
            return None
        return FeatureCache(self.model.encoder, load_image, None).rows


def answer_once(chat: Chat, console: Console, prompt: str) -> None:
    """Print the streamed answer to one question."""
    for piece in chat.ask(prompt):
        console.print(piece, end="", markup=False, soft_wrap=True)
    console.print()


def talk(chat: Chat, console: Console) -> None:
    """Run a conversation until the user leaves; a bad command or file is said, not fatal."""
    console.print(f"[dim]{HELP}[/]")
    while True:
        try:
            line = console.input("[bold]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/quit", "/exit"):
            return
        try:
            _turn(chat, console, line)
        except CotuneError as error:
            console.print(f"[red]{error}[/]")
        except KeyboardInterrupt:
            console.print("\n[dim]stopped; the turn is forgotten[/]")


def _turn(chat: Chat, console: Console, line: str) -> None:
    command, _, rest = line.partition(" ")
    if not line:
        return
    if command == "/reset":
        chat.reset()
        console.print("[dim]forgotten[/]")
    elif command == "/image":
        chat.show(Path(rest.strip()).expanduser())
        console.print(f"[dim]{rest.strip()} goes with your next question[/]")
    elif command.startswith("/"):
        console.print(f"[red]no command {command}[/]; {HELP}")
    else:
        answer_once(chat, console, line)
        console.print(f"[dim]answered by the {chat.modality} path[/]")
