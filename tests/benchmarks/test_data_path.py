"""The benchmark of the data path on tiny models and small pictures."""

import json

import data_path
from PIL import Image

from tests.tiny import tiny_recipe


def test_pictures_have_the_sizes_asked_for(tmp_path):
    made = data_path.make_pictures(tmp_path, 3, (0.01, 0.04))
    sizes = [Image.open(path).size for path in made]
    assert [round(width * height / 1e4) for width, height in sizes] == [1, 4, 1]
    assert all(abs(width / height - 4 / 3) < 0.03 for width, height in sizes)
    assert all(Image.open(path).format == "JPEG" for path in made)


def test_waiting_and_checking_are_measured(tiny_root, tmp_path):
    target = tmp_path / "data_path.json"
    recipe = tiny_recipe(tiny_root)
    data_path.run(recipe, rounds=2, steps=2, pictures=4, checked=30, megapixels=(0.01,), output=target)
    found = json.loads(target.read_text())
    shares = found["rounds"]["waiting_share"]
    assert set(shares) == {"no workers", "2 workers", "decoded before"}
    assert all(0 < share < 1 for values in shares.values() for share in values)
    assert found["check_rows_per_second"] > 0
    assert 0 < found["waiting_share"] < 1
