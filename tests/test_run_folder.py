import json
from pathlib import Path
from typing import Any

import pytest

from cotune.errors import RecipeError, RunFolderError
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from cotune.run_folder import RunFolder, open_run


def recipe(*overrides: str) -> Recipe:
    content: dict[str, Any] = {
        "name": "x",
        "model": {"llm": {"path": "llm"}},
        "data": {"train": [{"path": "a"}, {"path": "b"}]},
        "training": {"steps": 3},
    }
    return parse_recipe(content, overrides)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A started run."""
    folder = RunFolder(tmp_path / "runs" / "x")
    folder.create(recipe())
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_new_run_holds_its_resolved_recipe(run):
    assert everything(run.path) == {"recipe.yaml": recipe().to_yaml().encode()}
    assert open_run(run.path) == (run, recipe())


def test_an_empty_folder_may_be_used(tmp_path):
    RunFolder(tmp_path).create(recipe())
    assert open_run(tmp_path)[1] == recipe()


def test_an_existing_run_is_refused_with_what_to_do_and_left_as_it_is(run):
    before = everything(run.path)
    with pytest.raises(RunFolderError) as caught:
        run.create(recipe("training.steps=9"))
    for word in (str(run.path), "--resume", "--overwrite", "output=FOLDER"):
        assert word in str(caught.value)
    assert everything(run.path) == before


def test_clearing_removes_a_run_and_allows_a_new_one(run):
    run.write_result({"accuracy": 1.0})
    run.clear()
    run.create(recipe("training.steps=9"))
    assert everything(run.path).keys() == {"recipe.yaml"}


def test_clearing_refuses_a_folder_that_is_no_run_and_leaves_it_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(RunFolderError, match=r"is not a run folder \(no recipe\.yaml\); it is not overwritten"):
        RunFolder(tmp_path).clear()
    assert everything(tmp_path) == {"thesis.txt": b"ten years of work"}


def test_there_is_nothing_to_clear_in_a_folder_that_is_missing_or_empty(tmp_path):
    RunFolder(tmp_path / "missing").clear()
    RunFolder(tmp_path).clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", [RunFolder.clear, lambda run: run.create(recipe())])
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, use):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunFolderError, match="is a file, not a folder"):
        use(RunFolder(tmp_path / "file"))
    assert everything(tmp_path) == {"file": b"kept"}


def test_runs_are_set_aside_under_the_first_free_number(tmp_path):
    run = RunFolder(tmp_path / "x")
    assert run.set_aside() is None
    for steps in (1, 2, 3):
        run.create(recipe(f"training.steps={steps}"))
        assert run.set_aside() == tmp_path / f"x.{steps}"
    (tmp_path / "x.2").rename(tmp_path / "elsewhere")
    run.create(recipe("training.steps=4"))
    assert run.set_aside() == tmp_path / "x.2"
    steps_of = {path.name: open_run(path)[1].training.steps for path in tmp_path.iterdir()}
    assert steps_of == {"x.1": 1, "elsewhere": 2, "x.3": 3, "x.2": 4}


def test_a_run_goes_on_with_the_recipe_it_was_started_with(run):
    run.check_resume()
    assert run.check_recipe(recipe()) is None
    assert run.changed_keys(recipe()) == []


def test_a_changed_recipe_is_refused_with_every_changed_key(run):
    changes = ("training.steps=9", "components.llm.rate=1", "data.train.1.weight=2", "coordination.options.alpha=1")
    with pytest.raises(RunFolderError) as caught:
        run.check_recipe(recipe(*changes))
    named = str(caught.value).partition("Changed: ")[2].partition(". ")[0].split(", ")
    assert run.changed_keys(recipe(*changes)) == named
    assert named == ["components.llm.rate", "coordination.options.alpha", "data.train", "training.steps"]
    assert "output=FOLDER" in str(caught.value)


@pytest.mark.parametrize("folder", ["missing", ""])
def test_there_is_nothing_to_resume_without_a_recipe(tmp_path, folder):
    with pytest.raises(RunFolderError, match="holds no run to resume; start it without --resume"):
        RunFolder(tmp_path / folder).check_resume()
    with pytest.raises(RunFolderError, match=r"it holds no recipe\.yaml"):
        open_run(tmp_path / folder)


def test_a_damaged_recipe_is_named(run):
    run.recipe.write_text("name: [")
    with pytest.raises(RecipeError, match=r"recipe\.yaml is not YAML"):
        open_run(run.path)


def test_a_result_is_read_as_it_was_written(run):
    result = {"accuracy": 0.5, "open_accuracy": None, "text_reply": "é", "baselines": {"majority": None}}
    run.write_result(result)
    assert run.read_result() == result == json.loads(run.result.read_text(encoding="utf-8"))


@pytest.mark.parametrize("content", [None, '{"accuracy": 0.'])
def test_a_run_without_a_whole_result_says_so(run, content):
    if content is not None:
        run.result.write_text(content)
    with pytest.raises(RunFolderError, match=r"no readable result\.json .*; was the run finished\?"):
        run.read_result()


def test_a_full_disk_leaves_no_half_recipe_behind_so_the_run_can_be_started_again(tmp_path, full_disk):
    run = RunFolder(tmp_path / "x")
    with full_disk(), pytest.raises(RunFolderError, match=r"recipe\.yaml cannot be written: the disk is full"):
        run.create(recipe())
    run.create(recipe())
    assert open_run(run.path) == (run, recipe())


def test_a_full_disk_leaves_the_earlier_result(run, full_disk):
    run.write_result({"accuracy": 0.5})
    with full_disk(), pytest.raises(RunFolderError, match=r"result\.json cannot be written: the disk is full"):
        run.write_result({"accuracy": 0.75})
    assert run.read_result() == {"accuracy": 0.5}
