"""A whole run: what lies in its folder, what the result says, and that it can be opened and scored again."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cotune.errors import CheckpointError, DataError, ModelError, RecipeError, RunFolderError
from cotune.evaluation.answers_folder import AnswersFolder
from cotune.evaluation.retention import TextRetention, text_retention
from cotune.evaluation.tasks import read_predictions
from cotune.model.loading import load_tuned
from cotune.model.multimodal_lm import MultimodalLM
from cotune.recipe.reading import parse_recipe
from cotune.run_folder import RunFolder, open_run
from cotune.trace import read_trace
from cotune.training import result as result_module
from cotune.training.baselines import CHANGES, baseline_recipe, result_table, run_baselines
from cotune.training.loop import TrainingLoop
from cotune.training.run import prepare_training, train
from cotune.training.scoring import Wanted, evaluate_run
from tests.tiny import tiny_recipe


def console() -> Console:
    return Console(file=StringIO(), width=200)


def test_a_run_leaves_everything_a_reader_needs(root: Path) -> None:
    recipe = tiny_recipe(root, "evaluation.text_retention=true")
    result = train(recipe, console())
    run = RunFolder(recipe.folder)
    assert run.read_result() == json.loads(json.dumps(result))
    assert open_run(run.path)[1] == recipe
    expected = {
        "accuracy", "open_accuracy", "yes_no_accuracy", "text_kl", "baselines", "steps", "seconds",
        "tokens_per_second", "trainable_parameters", "peak_memory_bytes", "versions", "seed",
    }  # fmt: skip
    assert expected <= result.keys()
    assert result["baselines"].keys() == {
        "majority", "question_only", "text_only", "connector_only", "random_encoder", "lora",
    }  # fmt: skip
    assert result["baselines"]["lora"] is None
    assert result["steps"] == 6
    # Hard routing: the text path of the tuned model is the base model.
    assert abs(result["text_kl"]) <= 1e-6
    assert result["text_agreement"] == 1.0
    events = [row["event"] for row in read_trace(run.trace)]
    assert events[0] == "start"
    # The tiny test set holds the very pictures and questions of the training set.
    assert next(iter(read_trace(run.trace, "start")))["overlap"]["questions"] == 16
    assert events[-1] == "end"
    assert events.count("step") == 6
    assert events.count("validation") == 1
    assert len(read_predictions(run.path / "predictions.jsonl")) == 16


def test_counts_of_the_result_match_the_data(root: Path) -> None:
    counts = train(tiny_recipe(root), console())["counts"]
    assert counts["train"] + counts["validation"] == 48
    assert counts["test"] == 16


def test_a_finished_run_is_scored_again_with_the_same_answers(root: Path) -> None:
    recipe = tiny_recipe(root, "components.connector.rate=0.05", "training.steps=20")
    result = train(recipe, console())
    before = read_predictions(RunFolder(recipe.folder).path / "predictions.jsonl")
    scores = evaluate_run(RunFolder(recipe.folder), console())
    assert scores["accuracy"] == result["accuracy"]
    again = recipe.folder / "evaluation" / "easy-vqa" / "predictions.jsonl"
    assert read_predictions(again) == before


def test_scoring_reads_the_test_data_only(root: Path) -> None:
    recipe = tiny_recipe(root)
    train(recipe, console())
    (root / "train" / "questions.json").unlink()
    assert evaluate_run(RunFolder(recipe.folder), console(), Wanted(limit=5))["accuracy"] is not None
    folder = recipe.folder / "evaluation" / "easy-vqa"
    assert len(read_predictions(folder / "predictions.jsonl")) == 5
    assert "cannot be read here" in json.loads((folder / "evaluation.json").read_text())["overlap"]


def test_a_run_without_a_test_source_cannot_be_scored(root: Path) -> None:
    recipe = tiny_recipe(root, "data.test=[]")
    assert train(recipe, console())["accuracy"] is None
    with pytest.raises(DataError, match="names no test source"):
        evaluate_run(RunFolder(recipe.folder), console())


def test_an_existing_run_is_not_overwritten(root: Path) -> None:
    recipe = tiny_recipe(root)
    train(recipe, console())
    before = (recipe.folder / "adapter" / "adapter.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="--resume"):
        train(recipe, console())
    assert (recipe.folder / "adapter" / "adapter.safetensors").read_bytes() == before


def test_a_bad_picture_is_refused_before_any_weight_is_loaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "train" / "images" / "3.png").write_bytes(b"not a picture")
    monkeypatch.setattr("cotune.training.run.build_model", lambda recipe: pytest.fail("weights were loaded"))
    with pytest.raises(DataError, match=r"3\.png"):
        train(tiny_recipe(root), console())


def test_a_run_that_could_not_start_leaves_no_folder_behind(root: Path) -> None:
    picture = root / "train" / "images" / "3.png"
    good = picture.read_bytes()
    picture.write_bytes(b"not a picture")
    with pytest.raises(DataError):
        train(tiny_recipe(root), console())
    assert not (root / "run").exists()
    picture.write_bytes(good)
    assert train(tiny_recipe(root), console())["steps"] == 6


def test_a_bad_picture_can_be_left_out_and_is_counted(root: Path) -> None:
    (root / "train" / "images" / "3.png").write_bytes(b"not a picture")
    counts = train(tiny_recipe(root, "data.bad_media=drop"), console())["counts"]
    assert counts["dropped for bad media"] == 4
    assert counts["train"] + counts["validation"] == 44


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.task=easy-vqaa", "did you mean 'easy-vqa'"),
        ("coordination.rule=constnat", "did you mean 'constant'"),
        ("model.llm.path=/nowhere/at/all", "cannot be loaded"),
        ("model.encoders.image.taps=[stage9]", "no tap 'stage9'"),
    ],
)
def test_a_wrong_name_is_an_error_that_says_what_to_write(root: Path, override: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        train(tiny_recipe(root, override), console())


def test_a_run_made_with_another_encoder_does_not_load(root: Path) -> None:
    recipe = tiny_recipe(root)
    train(recipe, console())
    recipe.model.encoders.image.taps = ["stage3", "stage6"]
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_tuned(recipe, RunFolder(recipe.folder).adapter)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_each_baseline_takes_away_what_its_name_says(root: Path, name: str) -> None:
    recipe = baseline_recipe(tiny_recipe(root), name)
    train(recipe, console())
    model = load_tuned(recipe, RunFolder(recipe.folder).adapter)
    trained = {path.split(".")[0] for path, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        "text_only": {"adapters", "connectors"},
        "connector_only": {"connectors"},
        "random_encoder": {"adapters", "connectors", "encoders"},
        "lora": {"llm", "connectors", "encoders"},
    }
    assert trained == expected[name]
    assert recipe.training == tiny_recipe(root).training
    predictions = read_predictions(recipe.folder / "predictions.jsonl")
    assert {item.modality for item in predictions} == {"text" if name == "text_only" else "image"}


def test_baselines_fill_the_result_and_the_table(root: Path) -> None:
    recipe = tiny_recipe(root, "training.steps=2", "evaluation.text_retention=true")
    result = run_baselines(recipe, train(recipe, console()), console())
    assert all(scores is not None for scores in result["baselines"].values())
    assert RunFolder(recipe.folder).read_result()["baselines"] == result["baselines"]
    output = StringIO()
    Console(file=output, width=120).print(result_table(result))
    assert "not run" not in output.getvalue()
    assert [name for name, scores in result["baselines"].items() if "text_kl" in scores] == ["lora"]
    assert result["baselines"]["lora"]["text_kl"] > 0 == result["text_kl"]


def test_resuming_with_a_changed_recipe_is_refused(root: Path) -> None:
    train(tiny_recipe(root), console())
    RunFolder(root / "run").result.unlink()
    with pytest.raises(RunFolderError, match=r"training\.batch_size"):
        train(tiny_recipe(root, "training.batch_size=2"), console(), resume=True)


def test_a_finished_run_cannot_be_resumed_and_keeps_no_snapshots(root: Path) -> None:
    recipe = tiny_recipe(root)
    train(recipe, console())
    assert not RunFolder(recipe.folder).snapshots.exists()
    with pytest.raises(RunFolderError, match="is finished"):
        train(recipe, console(), resume=True)


def test_a_run_stopped_while_it_was_scored_is_not_tuned_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(root, "training.steps=7")
    with monkeypatch.context() as patch:
        patch.setattr(AnswersFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, console())
    weights = (RunFolder(recipe.folder).adapter / "adapter.safetensors").read_bytes()
    monkeypatch.setattr(TrainingLoop, "_one_step", lambda self: pytest.fail("tuned again"))
    monkeypatch.setattr(MultimodalLM, "generate", lambda *_: pytest.fail("answered again"))
    assert train(recipe, console(), resume=True)["steps"] == 7
    assert (RunFolder(recipe.folder).adapter / "adapter.safetensors").read_bytes() == weights
    steps = [row["step"] for row in read_trace(RunFolder(recipe.folder).trace, "step")]
    assert steps == list(range(1, 8))


def test_text_stays_the_base_model_in_hard_routing_but_not_with_lora(root: Path) -> None:
    fast = ("training.steps=20", "components.llm.rate=0.05", "evaluation.text_retention=true")
    hard = train(tiny_recipe(root, *fast), console())
    lora = train(tiny_recipe(root, *fast, "components.llm.tune=lora", f"output={root}/lora"), console())
    assert abs(hard["text_kl"]) <= 1e-12
    assert lora["text_kl"] > 1e-4


@pytest.mark.parametrize(("tune", "shares_all"), [("adapters", True), ("full", False)])
def test_what_tuning_left_as_it_was_is_held_once_while_text_is_compared(
    root: Path, tune: str, shares_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: set[str] = set()

    def watched(base: Any, model: MultimodalLM) -> TextRetention:
        held = {parameter.data_ptr() for parameter in model.llm.parameters()}
        own.update(name for name, parameter in base.named_parameters() if parameter.data_ptr() not in held)
        return text_retention(base, model)

    monkeypatch.setattr(result_module, "text_retention", watched)
    recipe = tiny_recipe(
        root,
        "training.steps=2",
        f"components.llm.tune={tune}",
        "model.llm.dtype=float32",
        "evaluation.text_retention=true",
    )
    kl = train(recipe, console())["text_kl"]
    assert not own if shares_all else own and kl > 0


def test_no_recipe_key_is_needed_beyond_the_smallest_text_only_recipe(root: Path) -> None:
    recipe = tiny_recipe(root, "model.llm.routing.text=trained", "evaluation.task=exact-match")
    content = recipe.model_dump(mode="json")
    content["model"]["encoders"] = {}
    content["components"]["vision"]["tune"] = "frozen"
    content["data"] = {"train": [{"path": str(chat_file(root, 20))}]}
    assert train(parse_recipe(content), console())["steps"] == 6


def chat_file(root: Path, samples: int) -> Path:
    turn = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    file = root / "chat.jsonl"
    file.write_text("\n".join(json.dumps(turn | {"id": str(number)}) for number in range(samples)))
    return file


def test_text_beside_a_frozen_text_path_is_refused_as_a_source_of_its_own(root: Path) -> None:
    content = tiny_recipe(root).model_dump(mode="json")
    content["data"]["train"].append({"path": str(chat_file(root, 20))})
    with pytest.raises(DataError, match=r"routing\.text=trained"):
        train(parse_recipe(content), console())


def test_text_mixed_with_pictures_trains_an_expert_of_its_own(root: Path) -> None:
    content = tiny_recipe(root, "model.llm.routing.text=trained", "training.steps=12").model_dump(mode="json")
    content["data"]["train"].append({"path": str(chat_file(root, 20))})
    recipe = parse_recipe(content)
    assert "text-only, left out of training" not in train(recipe, console())["counts"]
    model = load_tuned(recipe, RunFolder(recipe.folder).adapter)
    assert model.adapters is not None
    experts = model.adapters.site_adapters[0].up.detach()
    assert experts.shape[0] == 2
    assert all(expert.any() for expert in experts)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_connector_is_standardised_only_when_the_recipe_says_so(root: Path, standardize: bool) -> None:
    recipe = tiny_recipe(root, f"model.connector.standardize={str(standardize).lower()}")
    connector = prepare_training(recipe, console()).model.connector("image")
    assert connector is not None
    assert bool(connector.mean.any()) == standardize


def test_a_recipe_error_is_raised_before_the_run_folder_is_made(root: Path) -> None:
    with pytest.raises(RecipeError):
        tiny_recipe(root, "training.setps=3")
    assert not (root / "run").exists()


def test_a_run_is_the_same_whatever_random_state_it_starts_from(root: Path) -> None:
    results = []
    for number in range(2):
        torch.manual_seed(number)
        results.append(train(tiny_recipe(root, f"output={root}/run{number}"), console()))
    files = [(root / f"run{number}" / "adapter" / "adapter.safetensors").read_bytes() for number in range(2)]
    assert files[0] == files[1]
    assert results[0]["accuracy"] == results[1]["accuracy"]


def test_the_slips_of_the_original_are_for_scoring_and_never_trained(root: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.legacy: for scoring released adapters only"):
        train(tiny_recipe(root, "model.legacy.decode_positions=off-by-one"), console())
    assert not (root / "run").exists()


def test_the_loss_on_held_out_text_stands_in_the_result_for_every_path(root: Path) -> None:
    (root / "own.txt").write_text("a text of my own. " * 9)
    result = train(
        tiny_recipe(root, "training.steps=2", "evaluation.text_retention=true", f"evaluation.text_file={root}/own.txt"),
        console(),
    )
    loss = result["text_loss"]
    assert loss["tokens"] == 18 * 9 - 1
    assert loss["after"]["text"] == loss["before"] != loss["after"]["image"]
