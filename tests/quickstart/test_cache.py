import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cotune.errors import AssetError
from cotune.quickstart import Asset, asset_folder, cache_folder, ensure, is_finished
from cotune.quickstart.convert import CONVERTERS

from .conftest import FakeRegistry, copy_all, leftovers

# A program of its own: registers the fake asset again, counts downloads in a file, then fetches.
PROGRAM = """
import sys, time
from pathlib import Path
from cotune.quickstart import ASSETS, commands, ensure
from cotune.quickstart.convert import CONVERTERS
from quickstart import conftest

log, mode = Path(sys.argv[1]), sys.argv[2]
content = conftest.wheel({"tiny/hello.txt": "hello"})
asset = conftest.make_asset(content)
registry = conftest.FakeRegistry({asset.file_name: content}, seconds=0.3)

def counted(*arguments):
    with log.open("a") as stream:
        stream.write("download\\n")
    return registry(*arguments)

def stuck(unpacked, result):
    (result / "half.txt").write_text("half")
    print("converting", flush=True)
    time.sleep(60)

commands.run_command = counted
ASSETS["tiny"] = asset
CONVERTERS["copy"] = stuck if mode == "stuck" else conftest.copy_all
print(ensure(["tiny"])["tiny"])
"""


def start(tmp_path: Path, mode: str) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    command = [sys.executable, str(program), str(tmp_path / "log"), mode]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_environment_chooses_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("COTUNE_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("COTUNE_CACHE")
    assert cache_folder().is_absolute()
    assert "cotune" in cache_folder().parts


def test_a_finished_folder_says_what_it_is(tiny: Asset, cache: Path) -> None:
    folder = ensure(["tiny"])["tiny"]
    assert folder == cache / "tiny-1.0"
    record = json.loads((folder / "asset.json").read_text())
    assert record["sha256"] == tiny.sha256
    assert (record["name"], record["package"], record["licence"]) == ("tiny", "tiny-package", "MIT")
    assert "cotune" in record["converted_with"]
    assert record["created"].startswith("20")
    assert leftovers(cache) == ["tiny-1.0/asset.json", "tiny-1.0/tiny/deep/down.txt", "tiny-1.0/tiny/hello.txt"]


def test_a_second_call_downloads_nothing(tiny: Asset, registry: FakeRegistry) -> None:
    first = ensure(["tiny"])
    assert len(registry.commands) == 1
    assert ensure(["tiny"]) == first
    assert len(registry.commands) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "asset.json").unlink(),
        lambda folder: (folder / "asset.json").write_text("{"),
        lambda folder: (folder / "asset.json").write_text("[]"),
        lambda folder: (folder / "asset.json").write_text(
            (folder / "asset.json").read_text().replace('"1.0"', '"0.9"')
        ),
        lambda folder: (folder / "tiny" / "hello.txt").unlink(),
    ],
    ids=["no record", "half a record", "no dictionary", "other version", "a file tidied away"],
)
def test_a_spoilt_folder_is_built_anew(tiny: Asset, registry: FakeRegistry, spoil) -> None:
    folder = ensure(["tiny"])["tiny"]
    spoil(folder)
    assert not is_finished(tiny)
    assert ensure(["tiny"])["tiny"] == folder
    assert len(registry.commands) == 2
    assert (folder / "tiny" / "hello.txt").read_text() == "hello"


def test_a_file_only_its_owner_may_read_is_opened_to_the_others(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    def private(unpacked: Path, result: Path) -> None:
        (result / "secret.txt").write_text("x")
        (result / "secret.txt").chmod(0o600)
        (result / "open.txt").write_text("x")

    monkeypatch.setitem(CONVERTERS, "copy", private)
    folder = ensure(["tiny"])["tiny"]
    assert (folder / "secret.txt").stat().st_mode == (folder / "open.txt").stat().st_mode


def test_a_crash_during_conversion_leaves_nothing(
    tiny: Asset, cache: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(unpacked: Path, result: Path) -> None:
        (result / "half.txt").write_text("half")
        raise ValueError("broken tensor")

    with monkeypatch.context() as patch:
        patch.setitem(CONVERTERS, "copy", crash)
        with pytest.raises(AssetError, match=r"tiny: .*converting it failed: ValueError: broken tensor.*cotune"):
            ensure(["tiny"])
    assert leftovers(cache) == []
    assert not asset_folder(tiny).exists()
    folder = ensure(["tiny"])["tiny"]
    assert not (folder / "half.txt").exists()
    assert (folder / "tiny" / "hello.txt").exists()


def test_an_interrupt_leaves_nothing(tiny: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(unpacked: Path, result: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(CONVERTERS, "copy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure(["tiny"])
    assert leftovers(cache) == []


def test_what_a_killed_process_left_is_never_used(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path, "stuck")
    assert process.stdout is not None
    assert process.stdout.readline() == "converting\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [name for name in leftovers(cache) if name.endswith("half.txt")], "the kill came too early to test anything"
    assert not is_finished(tiny)
    meanwhile: list[str] = []

    def look_around(unpacked: Path, result: Path) -> None:
        meanwhile.extend(leftovers(cache))
        copy_all(unpacked, result)

    monkeypatch.setitem(CONVERTERS, "copy", look_around)
    ensure(["tiny"])
    assert [name for name in meanwhile if "half" in name] == [], "leftovers must go before they cost the disk its space"
    assert [name for name in leftovers(cache) if name.startswith(".staging")] == []


def test_two_processes_build_once(cache: Path, tmp_path: Path) -> None:
    processes = [start(tmp_path, "copy") for _ in range(2)]
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert out.strip() == str(cache / "tiny-1.0")
    assert (tmp_path / "log").read_text() == "download\n"


def test_two_threads_build_once(tiny: Asset, registry: FakeRegistry) -> None:
    registry.seconds = 0.2
    results: list[dict[str, Path]] = []
    threads = [threading.Thread(target=lambda: results.append(ensure(["tiny"]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 2
    assert results[0] == results[1]
    assert len(registry.commands) == 1


def test_a_finished_asset_needs_no_writable_cache(tiny: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure(["tiny"])["tiny"]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert ensure(["tiny"])["tiny"] == folder


def test_a_cache_that_cannot_be_made_names_the_way_out(
    tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="Set COTUNE_CACHE to a folder you may write to"):
        ensure(["tiny"])
