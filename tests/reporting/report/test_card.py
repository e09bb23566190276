"""The model card: read back by the hub's own library, with nothing of the machine it was made on."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from cotune.errors import RunFolderError
from cotune.reporting.report.card import model_card
from cotune.reporting.report.record import read_record
from tests.command_line import run
from tests.reporting.report.made_up import write_finished, write_trace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("made") / "run")


def test_the_hubs_library_reads_the_metadata_back(finished: Path) -> None:
    data = ModelCard(model_card(read_record(finished), license="apache-2.0", language="en")).data
    assert data.library_name == "cotune" and data.license == "apache-2.0" and data.language == "en"
    assert data.pipeline_tag == "image-text-to-text" and "image-input" in data.tags
    assert data.base_model == ["owner/model"] and data.base_model_relation == "adapter"
    assert data.datasets == ["owner/data"]
    results = {found.metric_type: found.metric_value for found in data.eval_results}
    assert results["accuracy"] == 0.75 and "nothing" not in results


def test_the_text_tells_what_is_wrong_and_no_local_paths(finished: Path) -> None:
    card = ModelCard(model_card(read_record(finished)))
    assert "/secret" not in card.content and str(finished) not in card.content
    assert "owner/model, encoder" in card.text
    assert "not above what the question alone gives" in card.text and "Not measured here: bias" in card.text
    assert "<script" not in card.text and card.data.license is None


def test_only_a_finished_run_gets_a_card(tmp_path: Path) -> None:
    write_trace(tmp_path, 3, end=False)
    with pytest.raises(RunFolderError, match="not finished"):
        model_card(read_record(tmp_path))


def test_metadata_that_cannot_be_read_back_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(content: str) -> None:
        raise ValueError("no metadata")

    monkeypatch.setattr("cotune.reporting.report.card.ModelCard", refuse)
    with pytest.raises(RunFolderError, match="not valid: no metadata"):
        model_card(read_record(finished))


def test_models_by_their_media(finished: Path, tmp_path: Path) -> None:
    record = read_record(finished)
    for encoders, tag in (
        ({"image": None, "audio": {"path": "a"}}, "audio-text-to-text"),
        ({"image": {"path": "a"}, "audio": {"path": "b"}}, "any-to-any"),
        ({}, "text-generation"),
    ):
        settings = {**record.settings, "model": {"encoders": encoders}}
        changed = type(record)(record.folder, record.rows, record.result, settings=settings)
        assert ModelCard(model_card(changed)).data.pipeline_tag == tag


def test_the_command_keeps_a_card_that_is_there(finished: Path, capsys: Any) -> None:
    assert run("card", str(finished)) == 0
    assert "No license is named" in capsys.readouterr().out
    (finished / "README.md").write_text("mine")
    assert run("card", str(finished), "--license", "mit") == 1
    assert (finished / "README.md").read_text() == "mine"
    assert run("card", str(finished), "--license", "mit", "--overwrite") == 0
    assert ModelCard((finished / "README.md").read_text()).data.license == "mit"
    assert json.loads((finished / "result.json").read_text())["accuracy"] == 0.75
