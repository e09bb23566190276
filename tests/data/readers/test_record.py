import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.data.readers.base import Problems
from cotune.data.readers.record import Record
from cotune.messages import Audio, Image


def record(fields=None, problems=None) -> Record:
    return Record(fields or {}, "file.json:record 1", 1, problems or Problems())


def test_the_id_is_the_own_one_or_the_number():
    assert record({"id": "x"}).id == "x"
    assert record({"id": 0}).id == "0"
    assert record({"id": None}).id == record({"id": ""}).id == record().id == "1"


def test_an_image_below_the_root_is_its_path(tmp_path):
    one = record()
    assert one.medium(Image, "a/b.png", tmp_path).path == tmp_path / "a" / "b.png"
    assert one.medium(Image, "a/../b.png", tmp_path).path == tmp_path / "b.png"
    assert one.medium(Image, str(tmp_path / "c.png"), tmp_path).path == tmp_path / "c.png"
    assert one.medium(Image, "..b.png", tmp_path).path == tmp_path / "..b.png"
    assert one.sound


@pytest.mark.parametrize("root", [Path("/data/media"), Path("media"), Path()])
@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "..", ".", "/etc/passwd", "/data/media/../x.png"])
def test_a_path_that_leaves_the_root_is_refused(root, name):
    one = record({"id": "s7"})
    one.medium(Image, name, root)
    assert not one.sound
    assert "sample 's7'" in one.problems.found[0] and "outside" in one.problems.found[0]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), min_size=1, max_size=6).map("/".join))
def test_an_accepted_path_is_always_inside(name):
    root = Path("/data/media")
    one = record()
    path = one.medium(Image, name, root).path
    if one.sound:
        assert os.path.normpath(path).startswith("/data/media/")


@pytest.mark.parametrize("name", ["https://host/a.png", "HTTP://host/a.png", "file:///etc/hosts", "s3://b/a"])
def test_a_url_is_refused_and_said_not_to_be_fetched(name, tmp_path):
    one = record({"id": "s7"})
    one.medium(Image, name, tmp_path)
    assert not one.sound
    assert "sample 's7'" in one.problems.found[0] and "URLs are not fetched" in one.problems.found[0]


def test_a_long_url_is_not_printed_whole(tmp_path):
    one = record()
    one.medium(Image, "https://host/" + "A" * 100_000, tmp_path)
    assert len(one.problems.found[0]) < 300


@pytest.mark.parametrize("name", [3, None, "", "  ", "a\0b", ["a.png"], {"bytes": "x"}])
def test_something_that_is_no_name_of_an_image_is_refused(name, tmp_path):
    one = record()
    one.medium(Image, name, tmp_path)
    assert not one.sound


@pytest.mark.parametrize(("kind", "called"), [(Image, "image"), (Audio, "audio")])
def test_a_medium_is_of_the_kind_asked_for_and_problems_name_it(kind, called, tmp_path):
    one = record({"one": "a.x", "list": ["a.x", "b.x"], "null": None, "wrong": ["a.x", 3, "../b.x"]})
    assert one.medium(kind, "a.x", tmp_path) == kind(tmp_path / "a.x")
    assert one.media(kind, "one", tmp_path) == [kind(tmp_path / "a.x")]
    assert one.media(kind, "list", tmp_path) == [kind(tmp_path / "a.x"), kind(tmp_path / "b.x")]
    assert one.media(kind, "null", tmp_path) == one.media(kind, "missing", tmp_path) == []
    assert one.sound
    assert len(one.media(kind, "wrong", tmp_path)) == 3
    assert [line.partition("sample '1': ")[2].split(" file ")[0].split(" lies")[0] for line in one.problems.found] == [
        f"an {called}",
        f"{called} '../b.x'",
    ]


def test_plain_values_become_meta_and_the_rest_is_counted():
    one = record({"id": 3, "text": "used", "topic": "cats", "level": 2, "none": None, "tags": ["x"], "empty": []})
    assert one.meta(("text",)) == {"topic": "cats", "level": "2"}
    assert one.problems.counts == {"records whose key 'tags' is not used": 1}
    assert one.sound


@pytest.mark.parametrize("key", ["image", "images", "video", "audio", "audios"])
def test_media_that_would_be_lost_is_a_problem(key):
    one = record({key: "a.mp4"})
    one.meta(("text",))
    assert not one.sound and f"'{key}'" in one.problems.found[0]
