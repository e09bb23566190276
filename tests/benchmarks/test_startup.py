"""The benchmark of starting, on a tiny recipe."""

import pytest
import startup

from tests.tiny import tiny_recipe


def test_a_training_command_is_timed_to_its_first_step_part_by_part(root):
    file = root / "recipe.yaml"
    file.write_text(tiny_recipe(root).to_yaml())
    parts = startup.first_step_of(["train", str(file), "training.steps=1"])
    total = parts.pop("total")
    assert sum(parts.values()) == pytest.approx(total)
    assert all(parts[name] > 0 for name in (startup.IMPORTS, startup.STEP, *startup.PARTS.values()))
    assert parts[startup.REST] > -0.01


def test_a_command_that_fails_says_so(root):
    with pytest.raises(SystemExit, match="nowhere"):
        startup.first_step_of(["train", "nowhere"])


def test_a_process_is_timed():
    assert startup.seconds_of_process("-c", "import cotune") > startup.seconds_of_process("-c", "pass") / 10
