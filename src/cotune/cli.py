"""The command line: all commands together, and what an error prints and returns."""

from __future__ import annotations

import logging
import sys

import typer

from cotune.commands import data, model, recipes, reporting, scoring, training

app = typer.Typer(
    help="Make a frozen language model see and hear, with a few million adapter weights, tuned in balance.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for kind in (training, data, scoring, reporting, model):
    app.add_typer(kind.app)
app.add_typer(recipes.app, name="recipes")


def main() -> None:
    """Run the command line; an expected error prints its text and sets the exit status."""
    from cotune.errors import STOPPED, TERMINATED, CotuneError, describe_write_error
    from cotune.ranks import LOST, lost_another

    # PEFT imports bitsandbytes whenever it is there, which then reports faster kernels it did not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app()
    except CotuneError as error:
        _say(str(error), "" if error.exit_code in (STOPPED, TERMINATED) else "error: ")
        sys.exit(error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{describe_write_error(error)}", "error: ")
        sys.exit(1)
    except RuntimeError as error:
        if not lost_another(error):
            raise
        _say(LOST, "error: ")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("stopped", "")
        sys.exit(STOPPED)


def _say(text: str, kind: str) -> None:
    """Print an error, from one of several processes that have the same."""
    from cotune.ranks import own_error, own_name

    own = own_error(text)
    if own is not None:
        typer.echo(f"{kind}{own_name()}{own}", err=True)
