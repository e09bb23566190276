"""The coordinator inside transformers' Trainer: its rates, measurements and state, and a trainer left as it was."""

from __future__ import annotations

import copy
import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import TrainerCallback

import cotune.coordination
from cotune.coordination import CoordinationCallback, Rates
from cotune.errors import BalanceError, CheckpointError, ModelError
from tests.coordination.multimodal import llava_batch
from tests.coordination.toy import naive_mean
from tests.coordination.trainers import dataset, rows, same_weights, settings, tiny_llava, train
from tests.run_ranks import run_ranks
from tests.tiny import save_tokenizer

SIDES = {"vision": "features", "connector": "features", "llm": "language"}


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a moving average, with decoupled decay (Chen et al. 2023, arXiv 2302.06675)."""

    def __init__(self, params: Any, lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * (0.9 * average + 0.1 * parameter.grad).sign())
                average.lerp_(parameter.grad, 0.01)


class Watch(TrainerCallback):
    """Keeps what every step began with and ended with; runs after the callback it watches."""

    def __init__(self, multipliers: Rates | None = None) -> None:
        self.multipliers, self.steps = multipliers, []
        self.coordinated: CoordinationCallback | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        if self.multipliers is not None:
            assert self.coordinated is not None
            self.coordinated.coordinator.multipliers = self.multipliers

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        named = dict(found["model"].named_parameters())
        self.steps.append(
            {
                "before": {name: value.detach().clone() for name, value in named.items()},
                "gradients": {name: value.grad.clone() for name, value in named.items() if value.grad is not None},
                "scheduled": found["lr_scheduler"].get_last_lr()[0],
            }
        )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        self.steps[-1]["after"] = {name: value.detach().clone() for name, value in found["model"].named_parameters()}
        self.steps[-1]["rates"] = [group["lr"] for group in found["optimizer"].param_groups]


def component_of(name: str) -> str:
    if "vision_tower" in name:
        return "vision"
    return "connector" if "multi_modal_projector" in name else "llm"


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd", "adafactor", "lion"])
def test_the_constant_rule_leaves_training_and_its_checkpoints_as_they_are(tmp_path: Path, optimizer: str) -> None:
    options: dict[str, Any] = {"optim": optimizer}
    if optimizer == "lion":
        options = {"trainer_options": {"optimizer_cls_and_kwargs": (Lion, {"lr": 1e-3})}}
    watched = train(tmp_path / "watched", CoordinationCallback("constant", measure_every=2), **options)
    alone = train(tmp_path / "alone", **options)
    assert [row["step"] for row in rows(watched)] == [2, 4, 6]
    assert same_weights(watched.model, alone.model)
    kept, expected = (
        torch.load(tmp_path / name / "checkpoint-3" / "optimizer.pt", weights_only=True)
        for name in ("watched", "alone")
    )
    assert kept["param_groups"] == expected["param_groups"]  # counters in them too
    assert kept["state"].keys() == expected["state"].keys()


@pytest.mark.parametrize("kind", ["whole", "partial", "lora"])
def test_each_component_steps_at_the_schedulers_rate_times_its_multiplier(tmp_path: Path, kind: str) -> None:
    coordinated = CoordinationCallback("constant", measure_every=0)
    watch = Watch(Rates(features=3.0, llm=0.25))
    watch.coordinated = coordinated
    model = tiny_llava(kind)
    train(tmp_path, coordinated, watch, model=model, optim="sgd", weight_decay=0.0, save_strategy="no", max_steps=3)
    assert len(watch.steps) == 3
    moved = set()
    for number, step in enumerate(watch.steps):
        scheduled = 1e-3 * (1 - number / 3)  # linear decay without warm-up
        assert step["scheduled"] == pytest.approx(scheduled)
        assert set(step["rates"]) == {step["scheduled"]}  # put back after the step
        for name, gradient in step["gradients"].items():
            part = component_of(name)
            rate = scheduled * (0.25 if part == "llm" else 3.0)
            torch.testing.assert_close(step["after"][name], step["before"][name] - rate * gradient)
            if gradient.any():
                moved.add(part)
    assert moved == {"whole": set(SIDES), "partial": {"connector", "llm"}, "lora": set(SIDES)}[kind]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_balance_is_that_of_copies_on_the_first_samples_of_the_last_micro_batch(
    tmp_path: Path, accumulated: int
) -> None:
    seen: list[list[dict[str, torch.Tensor]]] = []

    def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        seen.append(samples)
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    watch, model = Watch(), tiny_llava()
    trainer = train(
        tmp_path,
        CoordinationCallback("constant", measure_every=2, probe=3),
        watch,
        model=model,
        trainer_options={"data_collator": collate},
        gradient_accumulation_steps=accumulated,
        max_steps=2,
        save_strategy="no",
    )
    probe = {name: torch.stack([sample[name] for sample in seen[2 * accumulated - 1][:3]]) for name in seen[0][0]}
    before, after = watch.steps[1]["before"], watch.steps[1]["after"]
    model.eval()
    logits = {}
    for side in ("base", "features", "language"):
        mixed = {name: (after if SIDES[component_of(name)] == side else before)[name] for name in before}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(mixed[name])
            logits[side] = model(**probe).logits[:, :-1]
    (row,) = rows(trainer)
    for side in ("features", "language"):
        expected = naive_mean(logits["base"], logits[side], probe["labels"][:, 1:], "kl")
        assert row[f"coordination/divergence/{side}"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("feedforward", "whole"), ("feedforward", "lora"), ("self-tuning", "whole"), ("self-tuning", "lora")],
)
@pytest.mark.filterwarnings("ignore:coordination.rule. self-tuning spends:UserWarning")
def test_a_training_resumed_in_the_middle_ends_bit_for_bit_the_same(tmp_path: Path, rule: str, kind: str) -> None:
    options = {"warmup_measurements": 1} if rule == "feedforward" else {"start": 0.5}
    whole = train(tmp_path, CoordinationCallback(rule, options=options, measure_every=2), model=tiny_llava(kind))
    middle = tmp_path / "checkpoint-3"
    model = tiny_llava(kind)
    if kind == "whole":  # the trainer itself does not translate the names a LLaVA is saved under
        model = type(model).from_pretrained(middle)
    resumed = train(tmp_path, CoordinationCallback(rule, options=options, measure_every=2), model=model, resume=middle)
    assert same_weights(resumed.model, whole.model)
    assert rows(resumed, "coordination/rate/llm") and len({row["coordination/rate/llm"] for row in rows(whole)}) > 1
    for first, second in zip(rows(resumed), rows(whole), strict=True):
        timeless = [{k: v for k, v in row.items() if "seconds" not in k} for row in (first, second)]
        assert timeless[0] == timeless[1]
    assert (middle / "coordinator.safetensors").is_file() == (rule == "self-tuning")

    # Without its state it would have gone on otherwise.
    forgetful = CoordinationCallback(rule, options=options, measure_every=2, resume_from=False)
    assert not same_weights(train(tmp_path, forgetful, model=copy.deepcopy(model), resume=middle).model, whole.model)


def test_a_resumed_training_says_what_is_wrong_with_the_state_it_finds(tmp_path: Path) -> None:
    made = CoordinationCallback("feedforward", measure_every=2)
    train(tmp_path / "made", made, max_steps=3, save_steps=3)
    middle = tmp_path / "made" / "checkpoint-3"
    with pytest.raises(ModelError, match=r"checkpoint-3/coordinator.json is missing.*resume_from"):
        train(tmp_path / "other", CoordinationCallback("feedforward"), resume=middle)
    with pytest.raises(ModelError, match="written with the rule feedforward, not power"):
        train(tmp_path / "other", CoordinationCallback("power", resume_from=middle), resume=middle)
    elsewhere = CoordinationCallback("feedforward", measure_every=2, resume_from=middle)
    train(tmp_path / "other", elsewhere, resume=middle)
    assert elsewhere.coordinator.step == 6
    (middle / "coordinator.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        train(tmp_path / "made", CoordinationCallback("feedforward"), resume=middle)


def test_what_the_log_keeps_of_a_measurement(tmp_path: Path) -> None:
    trainer = train(tmp_path, CoordinationCallback("power", measure_every=3))
    assert [row["step"] for row in rows(trainer)] == [3, 6]
    row = rows(trainer)[0]
    divergences = [row[f"coordination/divergence/{side}"] for side in ("language", "features")]
    assert row["coordination/log_kappa"] == pytest.approx(math.log(divergences[0] / divergences[1]), abs=1e-6)
    assert row["coordination/rate/llm"] == pytest.approx(1e-3 * 4 / 6)
    assert {"coordination/multipliers/vision", "coordination/losses/base", "coordination/probe_seconds"} <= row.keys()
    kept = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text(encoding="utf-8"))
    assert [row for row in kept["log_history"] if "coordination/log_kappa" in row] == rows(trainer)[:1]


def test_reporters_see_the_rows_when_the_trainer_logs_them(tmp_path: Path) -> None:
    seen: list[int] = []

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **found: Any) -> None:
            if "coordination/log_kappa" in logs:
                seen.append(state.global_step)

    callback = CoordinationCallback("feedforward", measure_every=2)

    def connect(trainer: Any) -> None:
        callback.report = trainer.log

    trainer = train(tmp_path, Reporter(), callback, made=connect, save_strategy="no")
    assert seen == [2, 4, 6] == [row["step"] for row in rows(trainer)]


def test_a_model_without_one_of_the_sides_learning_is_refused_by_rules_that_weigh_them(tmp_path: Path) -> None:
    model = tiny_llava()
    model.model.language_model.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    with pytest.raises(ModelError, match="feedforward steers by the balance, but one of the two sides has nothing"):
        train(tmp_path, CoordinationCallback("feedforward"), model=model)
    with pytest.raises(ModelError, match="measure_every is 0"):
        train(tmp_path, CoordinationCallback("feedforward", measure_every=0))
    trainer = train(tmp_path, CoordinationCallback("constant", measure_every=2), model=model, save_strategy="no")
    assert not rows(trainer) and [row["step"] for row in rows(trainer, "coordination/rate/vision")] == [2, 4, 6]


def test_wrong_options_are_told_before_any_training() -> None:
    with pytest.raises(ModelError, match="did you mean 'feedforward'"):
        CoordinationCallback("feedforwards")
    with pytest.raises(ModelError, match="no option 'gain'"):
        CoordinationCallback("feedforward", options={"gain": 1})
    with pytest.raises(ModelError, match="probe: 0"):
        CoordinationCallback(probe=0)
    with pytest.raises(ModelError, match=r"trainer.train\(\)"):
        _ = CoordinationCallback().coordinator


def test_inputs_without_labels_are_an_error_at_the_first_measurement(tmp_path: Path) -> None:
    options: dict[str, Any] = {"label_smoothing_factor": 0.1, "save_strategy": "no"}
    with pytest.raises(BalanceError, match=r"no `labels`.*forward"):
        train(tmp_path, CoordinationCallback("feedforward", measure_every=2), **options)

    def last_token(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(**inputs).logits[:, -2:-1]
        return logits, inputs["input_ids"][:, -1:]

    callback = CoordinationCallback("feedforward", measure_every=2, forward=last_token)
    (first, *_) = rows(train(tmp_path, callback, **options))
    assert first["coordination/tokens"] == 2  # one of each of two samples


def test_measurements_that_fail_are_counted_and_training_ends_as_without_them(tmp_path: Path) -> None:
    calls = []

    def sometimes(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        if 3 < len(calls) < 6:
            raise RuntimeError("a broken picture")
        return model(**inputs).logits[:, :-1], inputs["labels"][:, 1:]

    callback = CoordinationCallback("constant", measure_every=2, forward=sometimes)
    with pytest.warns(UserWarning, match="measurement failed.*a broken picture"):
        trainer = train(tmp_path / "failing", callback, save_strategy="no")
    assert dict(callback.coordinator.failures) == {"RuntimeError: a broken picture": 2}
    assert [row["step"] for row in rows(trainer, "coordination/failed")] == [4, 6]
    assert same_weights(trainer.model, train(tmp_path / "alone", save_strategy="no").model)


def test_steps_are_amplified_where_the_trainer_computes_in_16_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"learning_rate": 5e-6, "save_strategy": "no"}  # steps shorter than bf16 can hold
    short, wide = (
        rows(train(tmp_path, CoordinationCallback("constant", measure_every=1, probe=4), bf16=bf16, **options))
        for bf16 in (True, False)
    )
    assert all(row["coordination/amplification/language"] > 1 for row in short)
    assert all(row["coordination/amplification/language"] == 1 for row in wide)
    medians = [median(row["coordination/log_kappa"] for row in found) for found in (short, wide)]
    assert medians[0] == pytest.approx(medians[1], abs=0.5)


def test_the_model_keeps_no_hook_after_training(tmp_path: Path) -> None:
    model = tiny_llava()
    hooks = len(model._forward_pre_hooks)
    train(tmp_path, CoordinationCallback("feedforward", measure_every=2), model=model, save_strategy="no")
    assert len(model._forward_pre_hooks) == hooks


def test_who_does_not_use_the_callback_does_not_import_transformers() -> None:
    code = "import sys, cotune.coordination as found; print('transformers' in sys.modules, found.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False") and "'CoordinationCallback'" in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'Callback'"):
        _ = cotune.coordination.Callback


def sharded_steps(folder: Path, steps: int, begun: int = 0) -> tuple[list[dict[str, Any]], CoordinationCallback]:
    """Return the log of a LLaVA sharded by FSDP2, its callback called as a trainer does, whole or from a checkpoint."""
    from torch.distributed.fsdp import fully_shard

    model = tiny_llava().eval()  # without dropout every rank's share of it does not matter
    for part in (*model.model.language_model.layers, model):
        fully_shard(part)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    callback = CoordinationCallback("self-tuning", options={"start": 0.5}, measure_every=2)
    args = SimpleNamespace(output_dir=str(folder), should_save=False, fp16=False, bf16=False)
    state = SimpleNamespace(global_step=begun, max_steps=400, log_history=[], epoch=0.0)
    events = {"args": args, "state": state, "control": None, "model": model, "optimizer": optimizer}
    callback.on_train_begin(**events)
    for step in range(begun, steps):
        model.train()
        model(**llava_batch(4, seed=10 * step + distributed.get_rank())).loss.backward()
        callback.on_pre_optimizer_step(**events)
        optimizer.step()
        callback.on_optimizer_step(**events)
        optimizer.zero_grad()
        state.global_step += 1
        callback.on_step_end(**events)
    (folder / f"checkpoint-{steps}").mkdir(parents=True, exist_ok=True)
    callback.on_save(**events)
    return state.log_history, callback


def rank(number: int, folder: str) -> None:
    """Train as one of two processes, and write down what was measured and where the weights ended."""
    import os

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = Path(folder, "port").read_text(encoding="utf-8")
    callback = CoordinationCallback("feedforward", options={"warmup_measurements": 1}, measure_every=2)
    trainer = train(Path(folder) / "out", callback, per_device_train_batch_size=2, ddp_backend="gloo")
    weights = [float(parameter.detach().double().sum()) for parameter in trainer.model.parameters()]
    sharded, tuned = sharded_steps(Path(folder) / "sharded", 4)
    _, again = sharded_steps(Path(folder) / "sharded", 4, begun=4)  # takes no step
    found = {
        "log": rows(trainer),
        "weights": weights,
        "wrapped": type(trainer.model_wrapped).__name__,
        "sharded": sharded,
        "resumed": again.coordinator.in_force == tuned.coordinator.in_force and again.coordinator.step == 4,
    }
    Path(folder, f"{number}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return the folder and the findings of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(free.getsockname()[1]), encoding="utf-8")
    run_ranks(rank, str(folder))
    return folder, [json.loads((folder / f"{number}.json").read_text(encoding="utf-8")) for number in (0, 1)]


def test_two_processes_measure_one_balance_and_stay_replicas(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (first, second) = ranks
    assert first["wrapped"] == "DistributedDataParallel"
    assert first["weights"] == second["weights"]
    measured = [[row["coordination/log_kappa"] for row in found["log"]] for found in (first, second)]
    assert measured[0] == measured[1]
    assert first["log"][0]["coordination/tokens"] > 6  # both processes' samples: up to three tokens each
    assert first["log"][-1]["coordination/multipliers/llm"] != 1


def test_each_process_keeps_the_state_of_its_part_of_a_sharded_model(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (first, second) = ranks
    assert [row["step"] for row in first["sharded"]] == [2, 4]
    assert "coordination/log_kappa" in first["sharded"][0]
    timeless = [
        [{name: value for name, value in row.items() if "seconds" not in name} for row in found["sharded"]]
        for found in (first, second)
    ]
    assert timeless[0] == timeless[1]
    assert first["resumed"] and second["resumed"]
    kept = sorted(file.name for file in (folder / "sharded" / "checkpoint-4").iterdir())
    assert kept == [f"coordinator-{number}-of-2.{kind}" for number in (0, 1) for kind in ("json", "safetensors")]


def test_the_sft_trainer_of_trl_is_coordinated_as_the_trainer_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    samples = [{name: value.tolist() for name, value in sample.items()} for sample in dataset()]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

    options = settings(tmp_path, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, save_strategy="no")
    callback = CoordinationCallback("power", options={"memory": 0.5, "warmup_measurements": 1}, measure_every=2)
    trainer = trl.SFTTrainer(
        model=tiny_llava("lora"),
        args=trl.SFTConfig(**options),
        train_dataset=datasets.Dataset.from_list(samples),
        data_collator=collate,
        processing_class=save_tokenizer(tmp_path / "tokenizer"),
        callbacks=[callback],
    )
    trainer.train()
    assert [row["step"] for row in rows(trainer)] == [2, 4, 6]
    multipliers = rows(trainer)[1]
    assert multipliers["coordination/rate/llm"] == pytest.approx(
        1e-3 * 0.5 * rows(trainer)[0]["coordination/multipliers/llm"]
    )
    assert rows(trainer)[0]["coordination/multipliers/llm"] != 1
