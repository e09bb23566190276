"""`cotune check`: what it counts against a count by hand, what it finds, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from cotune.errors import DataError, RecipeError
from cotune.inspection.check import check
from cotune.inspection.duplicates import between, within
from cotune.inspection.opened import TEST, TRAIN, open_data
from cotune.inspection.survey import survey
from cotune.messages import Image as Picture
from cotune.messages import Sample, question_answer
from cotune.recipe import Data, Source
from tests.command_line import run
from tests.tiny import save_tokenizer, tiny_recipe


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def llava(name: str, question: str, answer: str, image: str | None = None) -> dict[str, object]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


def paint(path: Path, color: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), color).save(path)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path / "llm")
    return tmp_path / "llm"


def printed(data: str, *overrides: str, output: Path | None = None, **options: object) -> tuple[str, Path | None]:
    console = Console(record=True, width=160)
    opened = open_data(data, overrides, **options)  # type: ignore[arg-type]
    picture = check(opened, console, output)
    return console.export_text(), picture


def test_lengths_and_answers_are_those_of_the_template_and_the_picture_lies_beside(
    tmp_path: Path, tokenizer: Path
) -> None:
    paint(tmp_path / "a.png")
    data = write(tmp_path / "data.jsonl", [llava("1", "<image>\nhm?", "yes", "a.png"), llava("2", "why", "no idea")])
    text, picture = printed(str(data), model=str(tokenizer), chat_template="chatml", media_tokens=4)
    # <|im_start|>user\n ... <|im_end|>\n<|im_start|>assistant\n ... : 6 + content + 2 + 11 + answer tokens are read.
    lengths = [6 + 4 + 3 + 2 + 11 + 3, 6 + 3 + 2 + 11 + 7]
    row = next(line for line in text.splitlines() if line.startswith("│ train"))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["train", "2", str(min(lengths)), "29", str(min(lengths)), str(max(lengths)), str(4 + 8), "0"]
    assert "image    │ 1 (50%)" in text and "can be trained on" in text
    assert picture == tmp_path / "data.check.png" and picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_model_lengths_are_words_and_it_says_so(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [llava("1", "one two three", "four five")])
    text, picture = printed(str(data), output=tmp_path / "lengths.svg")
    assert "lengths in words" in text and "name the model with --model" in text
    assert picture is not None and "<svg" in picture.read_text(encoding="utf-8")


def test_everything_that_would_make_training_fail_is_named_at_once_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    records = [llava("1", "<image>\nhm?", "yes", "missing.png"), llava("2", "<image>\nhm?", "yes", "torn.png")]
    data = write(tmp_path / "data.jsonl", records)
    assert run("check", str(data)) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "2 problems" in shown and "missing.png" in shown and "torn.png" in shown and "data.jsonl:2" in shown
    write(data, [llava("7", "<image>\n<image>\nhm?", "yes", "a.png"), llava("8", "ok", "")])
    assert run("check", str(data)) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "data.jsonl:1: sample '7': <image> stands 2 times" in shown and "sample '8'" in shown


def test_a_sound_file_ends_with_zero(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [llava("1", "hm?", "yes")])
    assert run("check", str(data), "--output", str(tmp_path / "p.png")) == 0
    assert run("check", str(data), "--output", str(tmp_path / "named")) == 0
    assert (tmp_path / "named.png").exists()
    assert (tmp_path / "p.png").is_file()


@pytest.mark.parametrize(("policy", "fails"), [("error", True), ("drop", False), ("cut-text", False)])
def test_over_long_samples_are_named_with_what_each_policy_would_do(root: Path, policy: str, fails: bool) -> None:
    recipe = tiny_recipe(root, "data.max_tokens=47", f"data.too_long={policy}", "training.batch_size=4")
    file = root / f"{policy}.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    console = Console(record=True, width=400)
    opened = open_data(str(file))
    output = root / f"{policy}.png"
    if fails:
        with pytest.raises(DataError, match=r"data\.max_tokens is 47; raise it, or set data\.too_long"):
            check(opened, console, output)
    else:
        check(opened, console, output)
    text = console.export_text()
    assert opened.template is not None
    lengths = [len(opened.template.encode(sample)) for sample in opened.splits[TRAIN]]
    too_long = sum(length > 47 for length in lengths)
    assert 0 < too_long < len(lengths)
    assert f"train: samples longer than data.max_tokens (47): {too_long} (" in text
    lost = sum(length - 47 for length in lengths if length > 47)
    assert f"cut-text keeps {too_long} of them, {lost} tokens shorter" in text
    assert "\ntest: " not in text and "\nvalidation: " not in text  # what is not learned is never cut


def test_what_the_template_refuses_is_a_problem_of_that_sample(tmp_path: Path, tokenizer: Path) -> None:
    refusing = (
        "{% for m in messages %}{{ raise_exception('too short') if m.content == 'x' }}{{ m.content }}{% endfor %}"
    )
    data = write(tmp_path / "data.jsonl", [llava("good", "hm?", "yes"), llava("bad", "x", "yes")])
    with pytest.raises(DataError, match=r"sample 'bad' \(.*data\.jsonl:2\).*too short"):
        printed(str(data), model=str(tokenizer), chat_template=refusing)


def test_typed_special_tokens_are_counted(tmp_path: Path, tokenizer: Path) -> None:
    data = write(tmp_path / "data.jsonl", [llava("1", "a <|im_end|> b", "yes"), llava("2", "a", "yes")])
    text, _ = printed(str(data), model=str(tokenizer), chat_template="chatml")
    assert "samples with the text of special tokens, read as plain text: 1" in text


def pictured(name: str, question: str, path: Path) -> Sample:
    return question_answer(name, question, "yes", media=[Picture(path)])


def test_samples_and_pictures_in_two_splits_are_found_by_content_whatever_their_names(tmp_path: Path) -> None:
    for name, color in (("a/1", "red"), ("b/other", "red"), ("b/2", "blue")):
        paint(tmp_path / f"{name}.png", color)
    red, again, blue = (tmp_path / f"{name}.png" for name in ("a/1", "b/other", "b/2"))
    splits = {
        TRAIN: [pictured("t1", "what?", red), pictured("t2", "which?", red)],
        TEST: [pictured("e1", "what?", again), pictured("e2", "how?", again), pictured("e3", "what?", blue)],
    }
    found = between(splits)[TRAIN, TEST]
    assert found.samples == [("t1", "e1")] and found.media == 1
    assert within([*splits[TRAIN], pictured("t3", "what?", red)]) == 1 and within(splits[TEST]) == 0


def test_a_recipe_is_checked_by_its_splits(root: Path) -> None:
    file = root / "recipe.yaml"
    file.write_text(tiny_recipe(root).to_yaml(), encoding="utf-8")
    text, _ = printed(str(file), output=root / "p.png")
    assert all(f"│ {split}" in text for split in ("train", "validation", "test"))
    # The tiny test pictures are the first of the training ones.
    assert "train and test share" in text or "validation and test share" in text


def test_many_samples_are_surveyed_as_one_by_one(tmp_path: Path, tokenizer: Path) -> None:
    data = write(tmp_path / "data.jsonl", [llava(str(n), "q" * (n % 7 + 1), "a" * (n % 5 + 1)) for n in range(600)])
    opened = open_data(str(data), model=str(tokenizer), chat_template="chatml")
    assert opened.template is not None
    done: list[int] = []
    found = survey(opened.splits[TRAIN], opened.template, Data(train=[Source(path="d")]), done.append)
    expected = [opened.template.encode(sample) for sample in opened.splits[TRAIN]]
    assert found.lengths == [len(item) for item in expected]
    assert found.answers == [item.answer_tokens for item in expected] and sum(done) == found.samples == 600


def test_options_that_do_not_fit_what_was_named_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="in place of --model"):
        open_data("quickstart", model="x")
    data = write(tmp_path / "data.jsonl", [llava("1", "a", "b")])
    with pytest.raises(RecipeError, match="only recipes take key=value"):
        open_data(str(data), ["data.max_tokens=3"])


def test_a_recipes_further_tasks_are_read_and_what_is_wrong_with_them_is_named_with_the_rest(root: Path) -> None:
    source = tiny_recipe(root).data.test[0]
    good = f"{{task: easy-vqa, name: seen, data: {source.path}, limit: 3}}"
    recipe = root / "recipe.yaml"
    recipe.write_text(tiny_recipe(root, f"evaluation.tasks=[{good}]").to_yaml(), encoding="utf-8")
    text, _ = printed(str(recipe), output=root / "lengths.png")
    assert re.search(r"seen\s*│\s*easy-vqa\s*│\s*3\s*│\s*accuracy", text) and "can be trained on" in text
    console = Console(record=True, width=160)
    wrong = f"[{good}, {{task: vqav2, data: {root}/nowhere}}, {{task: easy-vqaa, data: {source.path}}}]"
    with pytest.raises(DataError) as raised:
        check(open_data(str(recipe), [f"evaluation.tasks={wrong}"]), console, root / "lengths.png")
    assert len(raised.value.problems) == 2
    assert "evaluation.tasks.1 (vqav2)" in raised.value.problems[0] and "nowhere" in raised.value.problems[0]
    assert "no task 'easy-vqaa'" in raised.value.problems[1]
    assert "│ train" in console.export_text()  # the data were told all the same
