import os

import pytest

from cotune.data.readers import Problems, captions
from cotune.messages import Image, Text


@pytest.fixture
def stamps(tmp_path, write):
    write("stamps/animals/dogs/pug.png", b"png")
    write("stamps/animals/dogs/pug.txt", "A pug. \nde.utf8=Ein Mops.\n")
    write("stamps/food/EGG.JPG", b"jpg")
    write("stamps/food/EGG.TXT", "\ufeffAn egg.\r\nfr.utf8=Un œuf.\r\n")
    return tmp_path / "stamps"


def test_captioned_pictures_become_samples(stamps, read):
    (pug, egg), problems = read("captions", stamps)
    assert problems.found == [] and problems.counts == {}
    assert (pug.id, egg.id) == ("animals/dogs/pug.png", "food/EGG.JPG")
    assert pug.messages[0].parts == (Image(stamps / "animals/dogs/pug.png"), Text("Describe the picture."))
    assert pug.messages[1].text == "A pug." and egg.messages[1].text == "An egg."
    assert pug.meta == {"category": "animals", "answer": "A pug."}
    assert egg.meta["category"] == "food"
    assert pug.origin == f"{stamps / 'animals/dogs/pug.txt'}:1"


def test_another_question_can_be_asked(stamps):
    pug = next(captions.read(stamps, None, Problems(), question="What is it?"))
    assert pug.messages[0].text == "What is it?"


def test_whatever_is_left_out_is_counted(stamps, write, read, tmp_path):
    write("stamps/animals/dogs/pug_mirror.png", b"png")
    write("stamps/food/leek.gif", b"gif")
    write("stamps/food/leek.txt", "\nde.utf8=Lauch\n")
    write("stamps/README.txt", "Stamps.")
    write("stamps/food/egg.svg", "<svg/>")
    (stamps / "linked").symlink_to(stamps / "food")
    samples, problems = read("captions", stamps)
    assert len(samples) == 2 and problems.found == []
    assert problems.counts == {
        "pictures without a caption file, skipped": 1,
        "pictures whose caption has an empty first line, skipped": 1,
        "caption files without a picture, skipped": 1,
        "linked folders, not entered": 1,
    }


def test_a_caption_in_latin_1_is_read_and_counted(stamps, write, read):
    write("stamps/food/cafe.png", b"png")
    write("stamps/food/cafe.txt", "Un café.\n".encode("latin-1"))
    samples, problems = read("captions", stamps)
    assert "Un café." in [sample.meta["answer"] for sample in samples]
    assert problems.counts == {"captions read as Latin-1, because they are not UTF-8": 1}


def test_pictures_of_one_name_share_a_caption_and_differ_in_id(write, read, tmp_path):
    for name in ("pets/cat.png", "pets/cat.jpg"):
        write(name, b"picture")
    write("pets/cat.txt", "A cat.")
    samples, _ = read("captions", tmp_path / "pets")
    assert [(sample.id, sample.meta) for sample in samples] == [
        ("cat.jpg", {"category": "pets", "answer": "A cat."}),
        ("cat.png", {"category": "pets", "answer": "A cat."}),
    ]


def test_a_media_folder_is_refused(stamps, read, tmp_path):
    _, problems = read("captions", stamps, tmp_path)
    assert len(problems.found) == 1 and "leave `media` out" in problems.found[0]


def test_a_folder_that_cannot_be_opened_is_an_error_and_not_passed_over(stamps, read, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("food"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError):
        read("captions", stamps)
