import pytest

from cotune.messages import Image, Text

QUESTIONS = [
    ["what color is the shape?", "teal", 0],
    ["is there a circle?", "no", 0],
    ["what shape is in the image?", "rectangle", 12],
]


def test_questions_become_samples(write, read, tmp_path):
    write("shapes/questions.json", QUESTIONS)
    samples, problems = read("easy-vqa", tmp_path / "shapes")
    assert problems.found == []
    assert [sample.id for sample in samples] == ["0-1", "0-2", "12-1"]
    assert [sample.meta["kind"] for sample in samples] == ["color", "yes/no", "shape"]
    last = samples[-1]
    assert last.messages[0].parts == (
        Image(tmp_path / "shapes" / "images" / "12.png"),
        Text("what shape is in the image?"),
    )
    assert (last.messages[1].role, last.messages[1].text) == ("assistant", "rectangle")
    assert last.meta == {"kind": "shape", "question": "what shape is in the image?", "answer": "rectangle"}
    assert last.origin == f"{tmp_path / 'shapes' / 'questions.json'}:record 3"


def test_media_replaces_the_folder_of_images(write, read, tmp_path):
    write("shapes/questions.json", QUESTIONS)
    samples, _ = read("easy-vqa", tmp_path / "shapes", tmp_path / "elsewhere")
    assert samples[0].media == (Image(tmp_path / "elsewhere" / "0.png"),)


def test_all_bad_entries_are_reported_and_the_good_one_is_read(write, read, tmp_path):
    bad = [["q?", "purple", 1], ["q?", "red"], ["q?", "red", "../1"], ["", "red", 1], "red", ["q?", "red", True]]
    write("shapes/questions.json", [*bad, ["q?", "red", 1]])
    samples, problems = read("easy-vqa", tmp_path / "shapes")
    assert [sample.id for sample in samples] == ["1-1"]
    assert [line.split(": ")[0].rpartition(":")[2] for line in problems.found] == [f"record {n}" for n in range(1, 7)]
    assert "'purple'" in problems.found[0] and "teal" in problems.found[0]
    assert "'../1'" in problems.found[2]


@pytest.mark.parametrize(
    ("content", "expected"),
    [("[\n[1,\n", "questions.json:3: not JSON"), ('{"a": 1}', "a list of"), (b"\xff\xfe", "cannot be read")],
)
def test_a_file_that_is_no_list_is_a_problem(content, expected, write, read, tmp_path):
    write("shapes/questions.json", content)
    samples, problems = read("easy-vqa", tmp_path / "shapes")
    assert samples == []
    assert len(problems.found) == 1 and expected in problems.found[0]


def test_a_folder_without_questions_is_a_problem(read, tmp_path):
    samples, problems = read("easy-vqa", tmp_path)
    assert samples == [] and "the file is missing" in problems.found[0]
