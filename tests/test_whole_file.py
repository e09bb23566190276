import pytest

from cotune.errors import RunFolderError
from cotune.whole_file import write_whole


def test_a_file_and_its_folder_are_written(tmp_path):
    file = tmp_path / "a" / "b.json"
    write_whole(file, "é\n")
    assert file.read_bytes() == "é\n".encode()
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path, full_disk):
    with (
        full_disk(),
        pytest.raises(RunFolderError, match=r"b\.json cannot be written: the disk is full; free some space"),
    ):
        write_whole(tmp_path / "b.json", "0123456789")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there_before(tmp_path, full_disk):
    file = tmp_path / "b.json"
    file.write_bytes(b"before")
    with full_disk(), pytest.raises(RunFolderError):
        write_whole(file, "0123456789")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"b\.json cannot be written"):
        write_whole(tmp_path / "file" / "b.json", "text")
