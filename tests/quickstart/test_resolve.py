import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cotune.errors import AssetError
from cotune.quickstart import Asset, asset_folder, ensure, resolve

from .conftest import FakeRegistry


def test_a_quickstart_name_becomes_the_cached_folder(tiny: Asset) -> None:
    folder = resolve("quickstart:tiny")
    assert folder == str(asset_folder(tiny))
    assert (Path(folder) / "tiny" / "hello.txt").read_text() == "hello"


def test_a_folder_or_a_file_inside(tiny: Asset) -> None:
    assert resolve("quickstart:tiny/tiny/deep") == str(asset_folder(tiny) / "tiny" / "deep")
    assert Path(resolve("quickstart:tiny/tiny/deep/down.txt")).read_text() == "down"
    assert resolve("quickstart:tiny/") == str(asset_folder(tiny))


def test_something_that_is_not_inside_names_the_nearest(tiny: Asset) -> None:
    with pytest.raises(
        AssetError, match=r"'quickstart:tiny/tiny/deap': tiny-1\.0/tiny holds no 'deap'; did you mean 'deep'"
    ):
        resolve("quickstart:tiny/tiny/deap")
    with pytest.raises(AssetError, match=r"holds no 'x' \(it has 0 entries\)"):
        resolve("quickstart:tiny/tiny/hello.txt/x")


@pytest.mark.parametrize("path", ["quickstart:tiny/../other", "quickstart:tiny/tiny/../../..", "quickstart:tiny//etc"])
def test_no_path_leads_out_of_the_asset(tiny: Asset, path: str) -> None:
    with pytest.raises(AssetError, match="holds no"):
        resolve(path)


def test_an_unknown_name_is_an_error_with_the_nearest(tiny: Asset, registry: FakeRegistry) -> None:
    with pytest.raises(AssetError, match="did you mean 'tiny'"):
        resolve("quickstart:tyny")
    with pytest.raises(AssetError, match=r"known: .*easy-vqa"):
        resolve("quickstart:")
    assert registry.commands == []


def test_all_names_are_checked_before_anything_is_fetched(tiny: Asset, registry: FakeRegistry) -> None:
    with pytest.raises(AssetError, match="no asset 'wrong'"):
        ensure(["tiny", "wrong"])
    assert registry.commands == []


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "only.json").write_text("[]")
    monkeypatch.chdir(tmp_path / "work")
    absolute = str(tmp_path / "here" / "data")
    assert resolve(absolute) == absolute
    # Beside the recipe goes before the working folder.
    assert resolve("data", tmp_path / "here") == absolute
    assert resolve("only.json", tmp_path / "here") == "only.json"
    assert resolve("data") == "data"


@pytest.mark.parametrize("name", ["openai/whisper-tiny", "gpt2", "", "missing/file.json"])
def test_anything_else_comes_back_unchanged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(name, tmp_path) == name


def test_what_happens_is_told_on_the_console(tiny: Asset, tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as stream:
        ensure(["tiny"], Console(file=stream, width=60))
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines[0] == "tiny: one greeting; MIT; tiny-package==1.0"
    assert [line.split(" ")[1] for line in lines[1:5]] == ["downloading", "verifying", "unpacking", "converting"]
    assert re.match(r"tiny: ready after \d+ s in .*tiny-1\.0$", lines[5])


def test_a_terminal_sees_a_bar_with_rate_and_time_left(tiny: Asset, tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as stream:
        ensure(["tiny"], Console(file=stream, width=120, force_terminal=True))
    text = (tmp_path / "out.txt").read_text()
    assert "tiny: downloading" in text
    assert "tiny: converting" in text
    assert "━" in text


def test_importing_the_room_stays_light() -> None:
    program = (
        "import sys, cotune.quickstart; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
