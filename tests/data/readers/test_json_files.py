import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.data.readers.base import Problems
from cotune.data.readers.json_files import read_records


def places(path: Path) -> tuple[list[str], list[str]]:
    problems = Problems()
    origins = [found.origin.removeprefix(str(path)) for found in read_records(path, problems)]
    return origins, [line.removeprefix(str(path)) for line in problems.found]


def test_every_bad_line_is_named_and_the_good_ones_are_read(write):
    path = write("a.jsonl", '{"n": 1}\n{"n": }\n\n[2]\n{"n": 3}\n{"n": 4,\n')
    origins, found = places(path)
    assert origins == [":1", ":5"]
    assert found == [
        ":2: not JSON: Expecting value at column 7",
        ":4: a record holds a list; an object with keys is expected",
        ":6: not JSON: Expecting property name enclosed in double quotes at column 9",
    ]


def test_the_line_of_an_error_in_a_json_list_is_named(write):
    path = write("a.json", '[\n  {"n": 1},\n  {"n": 2,}\n]')
    origins, found = places(path)
    assert origins == []
    assert len(found) == 1 and found[0].startswith(":3: not JSON: ")


def test_items_of_a_list_are_numbered_from_one(write):
    origins, found = places(write("a.json", [{"n": 1}, None, {"n": 2}]))
    assert origins == [":record 1", ":record 3"]
    assert found == [":record 2: a record holds null; an object with keys is expected"]


def test_the_line_that_is_not_utf8_is_named(write):
    _, found = places(write("a.jsonl", b'{"n": "fine"}\n{"n": "caf\xe9"}\n'))
    assert len(found) == 1 and found[0].startswith(":2: not UTF-8 text")
    _, found = places(write("a.json", b'[\n{"n": "fine"},\n{"n": "caf\xe9"}]'))
    assert len(found) == 1 and found[0].startswith(":3: not UTF-8 text")


@pytest.mark.parametrize("start", ["[", "{"])
def test_a_byte_order_mark_is_no_error(write, start):
    content = '[{"n": 1}]' if start == "[" else '{"n": 1}\n'
    origins, found = places(write("a.json", b"\xef\xbb\xbf" + content.encode()))
    assert len(origins) == 1 and found == []


def test_an_object_over_several_lines_is_one_problem(write):
    origins, found = places(write("a.json", json.dumps({"data": [{"n": 1}]}, indent=2)))
    assert origins == []
    assert found == [":1: one object over several lines; a list, or one object per line, is expected"]


def test_an_empty_file_is_a_problem(write):
    origins, found = places(write("a.json", " \n"))
    assert origins == [] and "the file is empty" in found[0]


def test_absurd_json_is_a_problem_and_not_a_crash(write):
    _, found = places(write("deep.json", "[" * 100_000))
    assert len(found) == 1 and found[0].startswith(":1: ")
    _, found = places(write("digits.jsonl", '{"n": ' + "9" * 10_000 + "}\n"))
    assert len(found) == 1 and found[0].startswith(":1: ")


# Line ends inside of texts that are no line ends of the file: JSON leaves them as they are.
@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), min_size=1))
def test_jsonl_and_json_give_back_what_was_written(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("records")
    list_path, lines_path = folder / "a.json", folder / "a.jsonl"
    list_path.write_text(json.dumps(records, ensure_ascii=True), encoding="utf-8")
    lines = "\n".join(json.dumps(fields, ensure_ascii=False) for fields in records)
    lines_path.write_bytes(lines.encode("utf-8"))
    for path in (list_path, lines_path):
        problems = Problems()
        assert [found.fields for found in read_records(path, problems)] == records
        assert problems.found == []
