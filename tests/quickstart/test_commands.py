import itertools
import os
import sys
from pathlib import Path

import pytest

from cotune.quickstart.commands import CommandResult, run_command


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_the_exit_code_and_stderr_come_back(tmp_path: Path) -> None:
    result = run_command(python("import sys; print('out'); sys.exit('ERROR: bad')"), tmp_path, lambda: None)
    assert result == CommandResult(1, "ERROR: bad\n")


def test_temporary_files_lie_in_the_folder(tmp_path: Path) -> None:
    program = "import tempfile, sys; sys.stderr.write(tempfile.mkstemp()[1])"
    result = run_command(python(program), tmp_path, lambda: None)
    assert Path(result.errors).parent == tmp_path


def test_the_caller_is_called_while_the_program_runs(tmp_path: Path) -> None:
    calls = itertools.count(1)
    program = "import time, pathlib\nwhile not pathlib.Path('2').exists(): time.sleep(0.01)"
    result = run_command(python(program), tmp_path, lambda: (tmp_path / str(next(calls))).touch())
    assert result.code == 0


def test_an_interrupt_ends_the_program_too(tmp_path: Path) -> None:
    written = tmp_path / "number"

    def interrupt() -> None:
        if written.exists():
            raise KeyboardInterrupt

    program = "import os, time, pathlib; pathlib.Path('half').write_text(str(os.getpid()))"
    with pytest.raises(KeyboardInterrupt):
        run_command(python(f"{program}; os.rename('half', 'number'); time.sleep(60)"), tmp_path, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(written.read_text()), 0)


@pytest.mark.parametrize(
    ("errors", "last"),
    [
        ("ERROR: one\nWARNING: two\n", "ERROR: one"),
        ("one\n  two  \n\n", "two"),
        ("", "(no message, exit code 3)"),
    ],
)
def test_the_last_line_prefers_a_stated_error(errors: str, last: str) -> None:
    assert CommandResult(3, errors).last_line == last
