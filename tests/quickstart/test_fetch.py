import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cotune.errors import AssetError
from cotune.quickstart import ASSETS, Asset, ensure
from cotune.quickstart.commands import CommandResult

from .conftest import FakeRegistry, leftovers, wheel

NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(': Failed to \
establish a new connection: [Errno 111] Connection refused')': /simple/tiny-package/
ERROR: Could not find a version that satisfies the requirement tiny-package==1.0 (from versions: none)
ERROR: No matching distribution found for tiny-package==1.0
"""
NO_PACKAGE = """\
ERROR: Could not find a version that satisfies the requirement tiny-package==1.0 (from versions: none)
ERROR: No matching distribution found for tiny-package==1.0
"""
NO_VERSION = """\
WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by 'RemoteDisconnected': /simple/tiny-package/
ERROR: Could not find a version that satisfies the requirement tiny-package==1.0 (from versions: 0.8, 0.9)
ERROR: No matching distribution found for tiny-package==1.0
"""


def failing(registry: FakeRegistry, errors: str, name: str = "tiny") -> str:
    registry.failure = CommandResult(1, errors)
    with pytest.raises(AssetError) as caught:
        ensure([name])
    return str(caught.value)


def test_pip_is_asked_by_name_for_the_built_file_alone(tiny: Asset, registry: FakeRegistry) -> None:
    ensure(["tiny"])
    (command,) = registry.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "tiny-package==1.0"
    assert "--no-deps" in command
    # A source archive would run its own code.
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert not any("://" in word for word in command), "where packages come from is pip's own configuration"


def test_no_network_is_told_apart_from_a_missing_package(tiny: Asset, registry: FakeRegistry, cache: Path) -> None:
    text = failing(registry, NO_NETWORK)
    assert "tiny: the registry that pip is configured to use cannot be reached" in text
    assert "pip said: ERROR: No matching distribution found for tiny-package==1.0" in text
    assert leftovers(cache) == []


@pytest.mark.parametrize("errors", [NO_PACKAGE, NO_VERSION], ids=["no package", "no version, after a shaky start"])
def test_a_missing_package_or_version(tiny: Asset, registry: FakeRegistry, errors: str) -> None:
    text = failing(registry, errors)
    assert "answers, but has no tiny-package==1.0" in text
    assert "cannot be reached" not in text
    assert "pip said: ERROR: No matching distribution found" in text


def test_a_python_without_pip(tiny: Asset, registry: FakeRegistry) -> None:
    text = failing(registry, f"{sys.executable}: No module named pip\n")
    assert "has no pip" in text
    assert "ensurepip" in text


def test_any_other_failure_quotes_the_last_line_that_states_an_error(tiny: Asset, registry: FakeRegistry) -> None:
    text = failing(registry, "ERROR: something new\n\n[notice] A new release of pip is available\n")
    assert text.endswith("pip said: ERROR: something new")


def test_a_silent_failure_still_says_something(tiny: Asset, registry: FakeRegistry) -> None:
    assert "exit code 1" in failing(registry, "")


def test_a_wrong_hash_says_what_was_expected_and_found(tiny: Asset, registry: FakeRegistry, cache: Path) -> None:
    good = registry.files[tiny.file_name]
    other = wheel({"tiny/hello.txt": "tampered"})
    registry.files[tiny.file_name] = other
    with pytest.raises(AssetError) as caught:
        ensure(["tiny"])
    text = str(caught.value)
    assert text.startswith("tiny: ")
    assert f"expected: sha256 {tiny.sha256}" in text
    assert f"found:    sha256 {hashlib.sha256(other).hexdigest()}" in text
    assert "Try again" in text
    assert leftovers(cache) == []

    registry.files[tiny.file_name] = good
    assert (ensure(["tiny"])["tiny"] / "tiny" / "hello.txt").read_text() == "hello"


def test_a_download_that_brings_another_file_is_refused(tiny: Asset, registry: FakeRegistry, cache: Path) -> None:
    registry.files = {"tiny_package-1.0-cp311-win.whl": b"other"}
    with pytest.raises(AssetError, match=r"brought tiny_package-1\.0-cp311-win\.whl in place of tiny_package-1\.0-py3"):
        ensure(["tiny"])
    assert leftovers(cache) == []


def test_a_debian_package_is_fetched_and_unpacked(tiny_deb: Asset, registry: FakeRegistry) -> None:
    folder = ensure(["tiny-deb"])["tiny-deb"]
    assert (folder / "tiny" / "deep" / "down.txt").read_text() == "down"
    assert [command[0] for command in registry.commands] == ["apt-get", "dpkg-deb"]
    assert registry.commands[0][-2:] == ["download", "tiny-package=1.0"]


def test_elsewhere_than_debian_the_error_says_so(
    tiny_deb: Asset, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None)
    with pytest.raises(AssetError, match=r"apt-get and dpkg-deb cannot be found.*only be fetched on Debian or Ubuntu"):
        ensure(["tiny-deb"])
    assert registry.commands == []


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("E: Unable to locate package tiny-package\n", "sudo apt-get update"),
        ("E: Version '1.0' for 'tiny-package' was not found\n", "apt-cache policy tiny-package"),
        ("E: Failed to fetch x  Temporary failure resolving 'host'\n", "cannot be reached"),
        ("E: Something new\n", "apt-get could not download tiny-package=1.0"),
    ],
)
def test_apt_s_failures(tiny_deb: Asset, registry: FakeRegistry, errors: str, expected: str) -> None:
    text = failing(registry, errors, "tiny-deb")
    assert expected in text
    assert text.endswith(f"apt-get said: {errors.strip()}")


def test_a_missing_converter_library_is_said_before_the_download(
    tiny: Asset, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ASSETS, "tiny", replace(tiny, made_with=("no_such_module_here",)))
    with pytest.raises(AssetError, match=r"needs no_such_module_here.*pip install 'cotune\[quickstart\]'"):
        ensure(["tiny"])
    assert registry.commands == []
