"""The chat in the terminal: lines typed, commands obeyed, answers printed as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from cotune.errors import CotuneError, ModelError
from cotune.messages import MEDIA_OF_PART, Audio, Image, Text
from cotune.quickstart.cache import cache_folder
from cotune.serving.chat import Chat
from cotune.serving.saved_chat import save

HELP = (
    "/image FILE shows a picture, /audio FILE plays a sound, /history prints the conversation, /save FILE keeps it "
    "(.jsonl or .md), /reset forgets it, /quit ends it"
)
LINES_KEPT = 1000


def answer_once(chat: Chat, console: Console, prompt: str) -> None:
    """Print the streamed answer to one question."""
    for piece in chat.ask(prompt):
        console.print(piece, end="", markup=False, soft_wrap=True)
    console.print()


def talk(chat: Chat, console: Console) -> None:
    """Run a conversation until the user leaves; a bad command or file is said, not fatal."""
    console.print(f"[dim]{HELP}[/]")
    with _typed_lines():
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
                console.print(f"[red]{escape(str(error))}[/]")
            except KeyboardInterrupt:
                console.print("\n[dim]stopped; the turn is forgotten[/]")


@contextmanager
def _typed_lines() -> Iterator[None]:
    """Let the arrow keys edit and bring back what was typed, in earlier conversations too, where readline is."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    file = cache_folder() / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(LINES_KEPT)
        with suppress(OSError):  # a history that cannot be kept is no reason to fail
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
            file.chmod(0o600)


def _turn(chat: Chat, console: Console, line: str) -> None:
    command, _, rest = line.partition(" ")
    if not line:
        return
    if not command.startswith("/"):
        answer_once(chat, console, line)
        what = ": the base model itself" if chat.is_base else ""
        console.print(f"[dim]answered by the {chat.modality} path{what}[/]")
    elif command in _COMMANDS:
        _COMMANDS[command](chat, console, rest.strip())
    else:
        console.print(f"[red]no command {escape(command)}[/]; {HELP}")


def _reset(chat: Chat, console: Console, _: str) -> None:
    chat.reset()
    console.print("[dim]forgotten[/]")


def _show_image(chat: Chat, console: Console, file: str) -> None:
    _show(chat, console, Image, file)


def _show_audio(chat: Chat, console: Console, file: str) -> None:
    _show(chat, console, Audio, file)


def _show(chat: Chat, console: Console, kind: type[Image] | type[Audio], file: str) -> None:
    if not file:
        raise ModelError(f"name a file: /{MEDIA_OF_PART[kind]} FILE")
    medium = kind(Path(file).expanduser())
    chat.show(medium)
    console.print(f"[dim]{escape(str(medium.path))} goes with your next question[/]")


def _save(chat: Chat, console: Console, file: str) -> None:
    if not file:
        raise ModelError("name a file: /save FILE, ending in .jsonl (to learn from) or .md (to read)")
    path = Path(file).expanduser()
    save(chat.messages, path)
    console.print(f"[dim]saved: {escape(str(path))}[/]")


def _history(chat: Chat, console: Console, _: str) -> None:
    for message in chat.messages:
        for part in message.parts:
            told = part.text if isinstance(part, Text) else f"({MEDIA_OF_PART[type(part)]} {part.path})"
            mark = "> " if message.role == "user" else ""
            console.print(f"{mark}{told}", markup=False, soft_wrap=True)
    for medium in chat.waiting:
        console.print(f"[dim]{escape(str(medium.path))} goes with your next question[/]")


_COMMANDS: Final[dict[str, Callable[[Chat, Console, str], None]]] = {
    "/image": _show_image,
    "/audio": _show_audio,
    "/history": _history,
    "/save": _save,
    "/reset": _reset,
}
