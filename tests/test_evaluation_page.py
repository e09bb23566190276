"""The page about evaluation names every task, file and option there is."""

import inspect
import re
from pathlib import Path

import pytest

from cotune.commands import scoring
from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.tasks import TASKS
from cotune.plain_yaml import load_yaml
from cotune.recipe.evaluation import Evaluation, ScoredTask

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*)$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_a_row(task):
    assert task in ROWS


def test_every_file_it_leaves_is_named():
    folder = AnswersFolder(Path("x"))
    for file in (folder.predictions, folder.evaluation, folder.table, folder.page):
        assert f"`{file.name}`" in PAGE


def test_every_option_on_the_page_is_one_of_the_command():
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(scoring.evaluate).parameters}
    own = PAGE.partition("## Runs compared")[0].replace("--nproc_per_node", "")  # torchrun's
    found = set(re.findall(r"--[a-z][a-z-]+", own))
    assert found and found <= known


def test_the_recipe_on_the_page_is_one_and_every_key_of_a_task_has_a_row():
    section = PAGE.partition("## Tasks in a recipe")[2].partition("\n## ")[0]
    [block] = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    found = Evaluation.model_validate(load_yaml(block)["evaluation"])
    assert all(entry.task in TASKS for entry in found.tasks)
    rows = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    assert {key for row in rows for key in re.findall("`([a-z_]+)`", row)} == ScoredTask.model_fields.keys()
