from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import AssetError
from cotune.quickstart import ASSETS, Asset, ensure
from cotune.quickstart.commands import CommandResult
from cotune.quickstart.unpack import _leads_outside

from .conftest import FakeRegistry, leftovers, make_asset, wheel


@pytest.mark.parametrize("name", ["../evil.txt", "tiny/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_a_file_that_would_land_outside_is_refused(
    tiny: Asset, cache: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = wheel({"tiny/hello.txt": "hello", name: "evil"})
    asset = make_asset(content)
    registry.files[asset.file_name] = content
    monkeypatch.setitem(ASSETS, "tiny", asset)
    with pytest.raises(AssetError) as caught:
        ensure(["tiny"])
    assert f"'{name}'" in str(caught.value)
    assert "Nothing was unpacked" in str(caught.value)
    assert leftovers(cache) == []
    assert not list(cache.parent.rglob("evil*"))


@given(st.lists(st.sampled_from(["a", "b.txt", "..", ".", "..c"]), min_size=1, max_size=5))
def test_every_path_that_stays_inside_is_allowed_and_no_other(parts: list[str]) -> None:
    # Climbing up is refused even where the path comes back in: no honest package does that.
    assert _leads_outside("/".join(parts)) == (".." in parts)


def test_a_file_that_is_no_zip(
    tiny: Asset, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    asset = make_asset(b"not a zip")
    registry.files[asset.file_name] = b"not a zip"
    monkeypatch.setitem(ASSETS, "tiny", asset)
    with pytest.raises(AssetError, match=r"tiny: tiny_package-1\.0-py3-none-any\.whl is not a readable zip file"):
        ensure(["tiny"])
    assert leftovers(cache) == []


def test_a_debian_package_that_cannot_be_unpacked(
    tiny_deb: Asset, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], folder: Path, while_running: object) -> CommandResult:
        if command[0] == "dpkg-deb":
            return CommandResult(2, "dpkg-deb: error: unexpected end of file\n")
        return registry(command, folder, lambda: None)

    monkeypatch.setattr("cotune.quickstart.commands.run_command", run)
    with pytest.raises(AssetError, match="dpkg-deb said: dpkg-deb: error: unexpected end of file"):
        ensure(["tiny-deb"])
