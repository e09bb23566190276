import re

import pytest

from cotune.errors import AssetError
from cotune.quickstart import ASSETS, find_asset
from cotune.quickstart.convert import CONVERTERS


@pytest.mark.parametrize("name", ASSETS)
def test_every_entry_is_whole(name: str) -> None:
    asset = ASSETS[name]
    assert asset.name == name
    assert re.fullmatch(r"[0-9a-f]{64}", asset.sha256)
    assert asset.converter in CONVERTERS
    assert asset.version in asset.file_name
    # The client keeps a temporary copy beside the result.
    assert asset.bytes_needed > 2 * asset.download_bytes


def test_requirements_are_written_the_installer_s_way() -> None:
    assert ASSETS["easy-vqa"].requirement == "easy-vqa==1.0"
    assert ASSETS["tuxpaint-stamps"].requirement == "tuxpaint-stamps-default=2022.06.04-1"


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(AssetError, match="no asset 'easy-vqs'; did you mean 'easy-vqa'"):
        find_asset("easy-vqs")
