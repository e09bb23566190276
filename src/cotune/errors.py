"""Errors a user can act on: the text of each says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from difflib import get_close_matches

SHOWN_PROBLEMS = 20


# What a shell reports for a program ended by Ctrl-C, and by SIGTERM.
STOPPED = 130
TERMINATED = 143


class CotuneError(Exception):
    """An expected failure; commands print its text without a traceback and exit with `exit_code`."""

    exit_code = 1


class ManyProblemsError(CotuneError):
    """Several problems of one input, reported together so that they are mended in one go.

    `title` says what of, `problems` holds them all; the text shows the first ones and says how many more there are.
    """

    def __init__(self, title: str, problems: Sequence[str]) -> None:
        self.title, self.problems = title, list(problems)
        lines = [f"  - {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"  ... and {len(self.problems) - SHOWN_PROBLEMS} more")
        listed = "\n".join(lines)
        super().__init__(f"{title} ({len(self.problems)} problem{'s' * (len(self.problems) != 1)}):\n{listed}")


class RecipeError(ManyProblemsError):
    """A recipe that cannot be run: every wrong or unknown key is listed."""


class DataError(ManyProblemsError):
    """Training data that cannot be used: file, line and sample id stand in every line."""


class AssetError(CotuneError):
    """A package with weights or data could not be fetched, verified or converted."""


class CheckpointError(CotuneError):
    """A checkpoint does not fit the model it is loaded into, or cannot be written."""


class DivergedError(CheckpointError):
    """A run whose loss is no number any more; the same run would end so again."""


class OutOfMemoryError(CotuneError):
    """A step did not fit the memory: the text says what it takes, and which keys to change."""


class StudyError(ManyProblemsError):
    """A study that cannot be planned, or some of whose runs failed: every option or run is listed."""


class StudyStoppedError(CotuneError):
    """The user stopped a study; finished runs and snapshots are kept."""

    exit_code = STOPPED

    def __init__(self) -> None:
        super().__init__("Stopped; finished runs are kept, and the same command goes on from here")


class AdapterFileError(ManyProblemsError):
    """Adapters of another program that do not fit a recipe: every missing, unexpected or misshaped tensor is listed."""


class OtherRankError(CotuneError):
    """Several processes train together, and another one has failed or sees something else."""


class RunFolderError(CotuneError):
    """A run folder exists already, is incomplete or damaged, or cannot be written."""


class ModelError(CotuneError):
    """A model lacks a part the recipe asks for: an attention module, a tap, a component."""


class BalanceError(CotuneError):
    """A balance measurement that is set up wrongly: the text names the option or tensor and what is expected."""


class OneRankError(CotuneError):
    """A measurement that failed on some of several ranks only; all of them leave it out."""


class FoldError(CotuneError):
    """Adapters cannot be folded or exported with equal logits: the text names the site or setting and the way out."""


class RegularizerError(CotuneError):
    """A setting or reference under which the coordination regulariser would do nothing, or harm."""


class ServeError(CotuneError):
    """A server that cannot be started as asked: the address, the key or the model stands in the way."""


class RequestError(CotuneError):
    """A request that is turned away: `status` is that of HTTP, `code` and `param` as the OpenAI API names them.

    `retry_after` is the number of seconds after which it is worth trying again.
    """

    def __init__(
        self, status: int, text: str, *, code: str | None = None, param: str | None = None, retry_after: int = 0
    ) -> None:
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after
        super().__init__(text)


def nearest(name: str, choices: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the closest choice, or the list of choices when none is close."""
    close = get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(choices))}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text that says something, else its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def describe_write_error(error: Exception) -> str:
    """Return what went wrong and what to do, for a failed write."""
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error):
        return "the disk is full; free some space and go on with --resume"
    return str(error)
