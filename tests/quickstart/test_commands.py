import sys
import time
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
    calls: list[float] = []
    run_command(python("import time; time.sleep(0.7)"), tmp_path, lambda: calls.append(time.monotonic()))
    assert len(calls) >= 2


def test_an_interrupt_ends_the_program_too(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    program = "import time, pathlib; time.sleep(1.5); pathlib.Path('survived').touch()"
    with pytest.raises(KeyboardInterrupt):
        run_command(python(program), tmp_path, interrupt)
    time.sleep(max(0.0, 2.0 - (time.monotonic() - started)))
    assert not (tmp_path / "survived").exists()


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
