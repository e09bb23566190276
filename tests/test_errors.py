import errno
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import CotuneError, ManyProblemsError, describe_write_error, nearest


@given(st.integers(0, 60))
def test_twenty_problems_are_shown_the_rest_is_counted_and_all_are_kept(count):
    problems = [f"problem number {index}." for index in range(count)]
    error = ManyProblemsError("data.json", problems)
    lines = str(error).splitlines()
    assert lines[0] == f"data.json ({count} {'problem' if count == 1 else 'problems'}):"
    assert [line.removeprefix("  - ") for line in lines[1:21]] == problems[:20]
    assert lines[21:] == ([f"  ... and {count - 20} more"] if count > 20 else [])
    assert error.problems == problems


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("batchsize", "; did you mean 'batch_size'?"),
        ("stepz", "; did you mean 'steps'?"),
        ("zzz", "; known: batch_size, rate, steps"),
    ],
)
def test_the_nearest_name_is_offered_or_all_names_in_order(name, hint):
    assert nearest(name, ["steps", "rate", "batch_size"]) == hint


@given(st.text("abcde_", min_size=1, max_size=8), st.lists(st.text("abcde_", min_size=1, max_size=8), min_size=1))
def test_no_other_name_is_nearer_than_the_offered_one(name, choices):
    hint = nearest(name, choices)
    likeness = {choice: SequenceMatcher(None, choice, name).ratio() for choice in choices}
    if max(likeness.values()) < 0.6:
        assert hint == f"; known: {', '.join(sorted(choices))}"
    else:
        offered = hint.removeprefix("; did you mean '").removesuffix("'?")
        assert likeness[offered] == max(likeness.values())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "whatever the system calls it"), RuntimeError("I/O error: No space left on device")]
)
def test_a_full_disk_is_named_with_what_to_do(error):
    assert describe_write_error(error) == "the disk is full; free some space and go on with --resume"


def test_another_write_error_speaks_for_itself():
    assert describe_write_error(OSError(errno.EACCES, "Permission denied")) == "[Errno 13] Permission denied"


def test_every_expected_error_is_a_cotune_error_with_a_failing_exit_code():
    def all_below(kind: type) -> list[type]:
        return [kind, *(found for child in kind.__subclasses__() for found in all_below(child))]

    kinds = all_below(CotuneError)
    assert len(kinds) > 6
    assert all(kind.exit_code != 0 for kind in kinds)
