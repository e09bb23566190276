"""The loop: resumes to the bit, stops between steps, says what did not learn, refuses a broken loss."""

import json
import os
import signal
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from rich.console import Console

from cotune.data.template import Encoded
from cotune.errors import CotuneError, DivergedError, OutOfMemoryError, RecipeError
from cotune.messages import Image, question_answer
from cotune.model.checkpoint import saved_tensors
from cotune.recipe import Recipe
from cotune.run_folder import RunFolder
from cotune.trace import Trace, read_trace
from cotune.training.loop import TrainingLoop
from cotune.training.prepare import make_batches
from cotune.training.run import prepare_training
from cotune.training.startup import component_rows
from cotune.training.stopping import InterruptedRunError
from tests.tiny import tiny_recipe


def make_loop(recipe: Recipe) -> TrainingLoop:
    console = Console(file=StringIO())
    prepared = prepare_training(recipe, console)
    batches = make_batches(recipe, prepared.samples, prepared.model)
    return TrainingLoop(recipe, prepared.model, batches, prepared.loaders, RunFolder(recipe.folder), console)


def run(loop: TrainingLoop) -> None:
    with Trace(loop.run_folder.trace) as trace:
        loop.run(trace)


def weights(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in saved_tensors(loop.model).items()}


def printed(loop: TrainingLoop) -> str:
    file = loop.console.file
    assert isinstance(file, StringIO)
    return " ".join(file.getvalue().split())


@pytest.mark.parametrize("tune", ["adapters", "lora"])
def test_two_runs_are_equal_to_the_bit_and_the_loss_falls(root: Path, tune: str) -> None:
    overrides = ("training.steps=30", f"components.llm.tune={tune}", "components.connector.rate=0.02")
    first, second = (make_loop(tiny_recipe(root, *overrides, f"output={root}/{name}")) for name in "ab")
    run(first)
    run(second)
    assert all(tensor.equal(weights(second)[name]) for name, tensor in weights(first).items())
    losses = [row["loss"] for row in read_trace(first.run_folder.trace, "step")]
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_resumed_run_ends_with_the_same_bits_as_one_never_stopped(root: Path, stop_after: int) -> None:
    dropout = "model.llm.adapters.dropout=0.3"  # so that the random state matters
    whole = make_loop(tiny_recipe(root, dropout, "training.steps=8", f"output={root}/whole"))
    run(whole)
    recipe = tiny_recipe(root, dropout, "training.steps=8", f"training.snapshot_every={stop_after}")
    cut = make_loop(recipe)
    kill_after(cut, stop_after + 1)
    with pytest.raises(RuntimeError, match="killed"):
        run(cut)
    again = make_loop(recipe)
    assert again.resume()
    assert again.step == stop_after
    run(again)
    assert all(tensor.equal(weights(again)[name]) for name, tensor in weights(whole).items())
    assert again.costs.tokens == whole.costs.tokens


def kill_after(loop: TrainingLoop, step: int) -> None:
    """Break the loop's next step once `step` is done, as a crash would."""
    original = loop._one_step

    def one_step() -> dict[str, Any]:
        if loop.step == step:
            raise RuntimeError("killed")
        return original()

    loop._one_step = one_step  # type: ignore[method-assign]


def killed_and_resumed(recipe: Recipe) -> TrainingLoop:
    """Return the loop that went on, to the end, after one of the recipe was killed behind its sixth step."""
    cut = make_loop(recipe)
    kill_after(cut, 6)
    with pytest.raises(RuntimeError, match="killed"):
        run(cut)
    again = make_loop(recipe)
    assert again.resume()
    run(again)
    return again


@pytest.mark.skipif(which("g++") is None, reason="there is no C++ compiler")
def test_a_run_with_compiled_layers_ends_with_the_same_bits_when_it_is_resumed_by_a_fresh_compiler(root: Path) -> None:
    compiled = ("model.llm.compile=true", "model.llm.dtype=bfloat16", "training.steps=8", "training.snapshot_every=5")
    whole = make_loop(tiny_recipe(root, *compiled, f"output={root}/whole"))
    run(whole)
    cut = make_loop(tiny_recipe(root, *compiled))
    kill_after(cut, 6)
    with pytest.raises(RuntimeError, match="killed"):
        run(cut)
    torch._dynamo.reset()  # as in another process: nothing is known of the shapes seen before
    again = make_loop(tiny_recipe(root, *compiled))
    assert again.resume() and again.step == 5
    run(again)
    assert all(tensor.equal(weights(again)[name]) for name, tensor in weights(whole).items())


def test_without_a_snapshot_there_is_nothing_to_resume(root: Path) -> None:
    assert not make_loop(tiny_recipe(root)).resume()


def test_ctrl_c_ends_the_step_keeps_a_snapshot_and_says_how_to_go_on(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "training.steps=50", "training.snapshot_every=50"))
    original = loop._one_step

    def one_step() -> dict[str, Any]:
        if loop.step == 2:
            os.kill(os.getpid(), signal.SIGINT)  # arrives while a step is under way
        return original()

    loop._one_step = one_step  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedRunError, match=r"after step 3 of 50.*--resume") as caught:
        run(loop)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert (loop.run_folder.snapshots / "step-3" / "adapter.safetensors").exists()
    assert [row["step"] for row in read_trace(loop.run_folder.trace, "step")] == [1, 2, 3]


def test_only_the_newest_snapshots_are_kept(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "training.steps=8", "training.snapshot_every=2", "training.snapshots_kept=3"))
    run(loop)
    assert sorted(path.name for path in loop.run_folder.snapshots.iterdir()) == ["step-4", "step-6", "step-8"]


def test_an_unfinished_snapshot_is_never_resumed_from(root: Path) -> None:
    recipe = tiny_recipe(root, "training.snapshot_every=3")
    run(make_loop(recipe))
    newest = RunFolder(recipe.folder).snapshots / "step-7"
    newest.mkdir()
    (newest / "adapter.safetensors").write_bytes(b"half")
    loop = make_loop(recipe)
    assert loop.resume()
    assert loop.step == 6


def test_on_a_full_disk_tuning_goes_on_and_keeps_the_last_good_snapshot(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(root, "training.snapshot_every=2")
    loop = make_loop(recipe)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    original = loop._one_step

    def one_step() -> dict[str, Any]:
        if loop.step == 2:
            monkeypatch.setattr("cotune.training.snapshot.save_file", full)
        return original()

    loop._one_step = one_step  # type: ignore[method-assign]
    run(loop)
    assert loop.step == 6
    assert [path.name for path in loop.run_folder.snapshots.iterdir()] == ["step-2"]
    assert loop.counts() == {"snapshots that could not be written": 2}
    assert "the disk is full" in printed(loop) and "Tuning goes on; the last good snapshot is" in printed(loop)
    failed = list(read_trace(loop.run_folder.trace, "snapshot failed"))
    assert [row["step"] for row in failed] == [4, 6]


def test_a_component_that_does_not_move_is_named(root: Path) -> None:
    # Blank media: no picture ever reaches the connector, although the recipe trains it.
    loop = make_loop(tiny_recipe(root, "data.blank_media=true", "model.llm.routing.text=trained"))
    run(loop)
    moved = next(read_trace(loop.run_folder.trace, "moved"))["components"]
    assert moved == {"vision": False, "connector": False, "llm": True}
    assert "connector has not changed in 5 steps" in printed(loop)


def test_every_component_moves_in_joint_training(root: Path) -> None:
    loop = make_loop(tiny_recipe(root))
    frozen = {name: tensor.clone() for name, tensor in loop.model.llm.state_dict().items()}
    run(loop)
    moved = next(read_trace(loop.run_folder.trace, "moved"))["components"]
    assert moved == {"vision": True, "connector": True, "llm": True}
    assert all(tensor.equal(frozen[name]) for name, tensor in loop.model.llm.state_dict().items())


@pytest.mark.parametrize("limit", [1, 3])
def test_a_loss_that_stays_no_number_ends_the_run_before_it_does_harm(root: Path, limit: int) -> None:
    loop = make_loop(tiny_recipe(root, f"training.skipped_in_a_row={limit}"))
    with torch.no_grad():
        loop.model.connector("image").output.bias.fill_(float("nan"))
    before = weights(loop)["adapters.adapters.0.down"]
    with pytest.raises(DivergedError, match=r"no number at (step 1|3 steps in a row, up to step 3) "):
        run(loop)
    assert loop.step == limit
    assert weights(loop)["adapters.adapters.0.down"].equal(before)
    assert [row["step"] for row in read_trace(loop.run_folder.trace, "skipped")] == list(range(1, limit + 1))


def test_a_step_whose_loss_is_no_number_is_skipped_counted_and_its_samples_named(root: Path) -> None:
    recipe = tiny_recipe(root, "training.steps=8", "coordination.measure_every=2", "training.snapshot_every=3")
    loop = make_loop(recipe)
    original = loop.passes.loss_of, loop.passes.backward
    bad: list[str] = []

    def backward(encoded: Sequence[Encoded]) -> tuple[float, int]:
        value, padding = original[1](encoded)
        if loop.step in (2, 4):
            bad.append(encoded[1].sample.id)
            return float("inf"), padding
        return value, padding

    def loss_of(item: Encoded) -> float:
        return float("nan") if item.sample.id == bad[-1] else original[0](item)

    loop.passes.backward, loop.passes.loss_of = backward, loss_of  # type: ignore[method-assign]
    run(loop)
    rows = list(read_trace(loop.run_folder.trace, "skipped"))
    assert [(row["step"], row["samples"]) for row in rows] == [(3, [bad[0]]), (5, [bad[1]])]
    assert loop.counts() == {"steps skipped": 2}
    assert [row["step"] for row in read_trace(loop.run_folder.trace, "step")] == [1, 2, 4, 6, 7, 8]
    assert loop.step == 8 == loop.coordinator.step
    assert "Step 3 is skipped: the loss is inf" in printed(loop)
    again = make_loop(recipe)
    assert again.resume()
    assert again.skipped == loop.skipped


def test_asking_which_sample_is_to_blame_uses_up_no_random_number(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "model.llm.adapters.dropout=0.3"))
    loop.model.train()
    before = torch.get_rng_state()
    loop.passes.loss_of(next(loop.batches)[0])
    assert torch.get_rng_state().equal(before)


def test_a_gradient_that_is_no_number_is_a_step_not_taken_either(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "training.skipped_in_a_row=2"))
    loop.model.connector("image").output.bias.register_hook(lambda gradient: gradient * float("nan"))
    before = weights(loop)
    with pytest.raises(DivergedError, match="2 steps in a row"):
        run(loop)
    assert all(tensor.equal(before[name]) for name, tensor in weights(loop).items())
    row = next(read_trace(loop.run_folder.trace, "skipped"))
    assert row["loss"] > 0 and len(row["samples"]) == 4


def test_running_out_of_memory_says_which_keys_to_change_and_what_that_saves(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "training.batch_size=4"))

    def hidden_of_loss(batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    loop.model.hidden_of_loss = hidden_of_loss  # type: ignore[method-assign]
    with pytest.raises(OutOfMemoryError) as caught:
        run(loop)
    text = str(caught.value)
    assert "4 rows at a time of" in text and "Tried to allocate 20.00 GiB" in text
    for change in ("training.micro_batch_size=2:", "training.micro_batch_size=1:", "gradient_checkpointing=true:"):
        assert change in text
    sizes = [float(line.rpartition(": ")[2].removesuffix(" GiB")) for line in text.splitlines() if line.endswith("GiB")]
    assert len(sizes) == 4 and all(size >= 0 for size in sizes)
    assert "--resume --allow-changed" in text


def test_tensors_that_did_not_learn_are_named_though_weight_decay_moved_them(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "training.weight_decay=0.5"))
    weight = loop.model.connector("image").output.weight
    weight.register_hook(lambda gradient: torch.zeros_like(gradient))
    before = weight.detach().clone()
    run(loop)
    row = next(read_trace(loop.run_folder.trace, "moved"))
    assert row["components"] == {"vision": True, "connector": True, "llm": True}
    assert not weight.equal(before)
    assert row["still"]["connector"] == ["connectors.image.output.weight"]
    assert "1 of 4 tensors of connector did not learn in 5 steps: connectors.image.output.weight" in printed(loop)


def test_the_trace_holds_rates_norms_and_tokens_of_every_step(root: Path) -> None:
    loop = make_loop(tiny_recipe(root, "components.llm.rate=0.002"))
    run(loop)
    rows = list(read_trace(loop.run_folder.trace, "step"))
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert rows[0]["rates"]["llm"] == pytest.approx(2 * rows[0]["rates"]["connector"])
    assert all(row["gradient_norms"].keys() == {"vision", "connector", "llm"} for row in rows)
    assert sum(row["tokens"] for row in rows) == loop.costs.tokens
    assert json.loads(json.dumps(rows)) == rows


def test_nothing_to_train_is_said_before_the_first_step(root: Path) -> None:
    frozen = [f"components.{name}.tune=frozen" for name in ("vision", "connector", "llm")]
    with pytest.raises(CotuneError, match="every component is frozen"):
        make_loop(tiny_recipe(root, *frozen))


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_cut_into_micro_batches_gives_the_same_gradient_and_run(root: Path, size: int) -> None:
    # The tiny encoder's gradients are next to nothing, and Adam makes full steps of their rounding: its gradient is
    # compared at the same weights, by the test below.
    frozen = "components.vision.tune=frozen"
    whole = make_loop(tiny_recipe(root, frozen, f"output={root}/whole"))
    cut = make_loop(tiny_recipe(root, frozen, f"training.micro_batch_size={size}", f"output={root}/cut"))
    run(whole)
    run(cut)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-3, atol=1e-5)
    pairs = list(zip(*(read_trace(loop.run_folder.trace, "step") for loop in (whole, cut)), strict=True))
    assert pairs[0][1]["gradient_norms"] == pytest.approx(pairs[0][0]["gradient_norms"], rel=1e-4)
    for one, other in pairs:
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert (other["tokens"], other["loss_tokens"]) == (one["tokens"], one["loss_tokens"])


def test_answers_of_different_lengths_weigh_by_their_tokens_however_the_batch_is_cut(root: Path) -> None:
    """A mean of micro-batch means would weigh the tokens of short answers more."""
    loop = make_loop(tiny_recipe(root))
    path = root / "train" / "images" / "0.png"
    long, short = (
        loop.model.template.encode(question_answer(str(size), "what?", "x" * size, media=[Image(path)]))
        for size in (30, 1)
    )
    gradients = []
    for size in (2, 1):
        loop.recipe.training.micro_batch_size = size
        loop.optimizer.zero_grad()
        value, _ = loop.passes.backward([long, short])
        gradients.append((value, [p.grad for part in loop.components.values() for p in part.trainable]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for one, other in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:coordination.rule. self-tuning spends:UserWarning")
@pytest.mark.parametrize("rule", ["constant", "feedforward", "self-tuning", "feature-cd", "prodigy"])
def test_a_resumed_run_goes_on_with_the_same_rates_whatever_the_rule(root: Path, rule: str) -> None:
    more = (f"coordination.rule={rule}", "coordination.measure_every=2", "training.steps=8")
    whole = make_loop(tiny_recipe(root, *more, f"output={root}/whole"))
    run(whole)
    recipe = tiny_recipe(root, *more, "training.snapshot_every=5")
    again = killed_and_resumed(recipe)
    assert all(tensor.equal(weights(again)[name]) for name, tensor in weights(whole).items())
    rows = [row["rates"] for row in read_trace(whole.run_folder.trace, "step")]
    assert rows[5:] == [row["rates"] for row in read_trace(again.run_folder.trace, "step")][-3:]
    assert again.coordinator.multipliers == whole.coordinator.multipliers


def test_prodigy_ignores_the_recipes_rates_and_traces_its_own(root: Path) -> None:
    loops = [
        make_loop(
            tiny_recipe(
                root,
                "coordination.rule=prodigy",
                "coordination.options={d0: 1e-3}",
                "training.steps=14",
                f"components.llm.rate={rate}",
                f"output={root}/{rate}",
            )
        )
        for rate in (1e-3, 10.0)
    ]
    for loop in loops:
        run(loop)
    assert all(tensor.equal(weights(loops[1])[name]) for name, tensor in weights(loops[0]).items())
    rows = list(read_trace(loops[0].run_folder.trace, "step"))
    assert rows[0]["rates"] == dict.fromkeys(("vision", "connector", "llm"), 1e-3)  # d0 x 1, warm-up is one step
    assert rows[-1]["rates"]["llm"] != rows[-1]["rates"]["connector"]
    table = component_rows(loops[0].components, loops[0].recipe)
    assert {row[4] for row in table} == {"found by prodigy"}


def test_measuring_the_balance_changes_no_bit_of_the_run(root: Path) -> None:
    dropout = "model.llm.adapters.dropout=0.3"
    never = make_loop(tiny_recipe(root, dropout, "coordination.measure_every=0", f"output={root}/never"))
    run(never)
    always = make_loop(tiny_recipe(root, dropout, "coordination.measure_every=1", f"output={root}/always"))
    run(always)
    assert all(tensor.equal(weights(always)[name]) for name, tensor in weights(never).items())
    measured = [row["balance"] for row in read_trace(always.run_folder.trace, "step")]
    assert all(row["divergence"].keys() == {"features", "language"} for row in measured)
    assert not any("balance" in row for row in read_trace(never.run_folder.trace, "step"))


def test_the_rule_moves_the_rates_of_the_two_sides_apart(root: Path) -> None:
    loop = make_loop(
        tiny_recipe(root, "coordination.rule=feedforward", "coordination.measure_every=1", "training.steps=20")
    )
    run(loop)
    rates = [row["rates"] for row in read_trace(loop.run_folder.trace, "step")]
    assert rates[0]["llm"] == rates[0]["connector"] and rates[-1]["llm"] != pytest.approx(rates[-1]["connector"])
    assert rates[-1]["vision"] == rates[-1]["connector"]


def test_a_rule_without_anything_to_measure_is_refused(root: Path) -> None:
    for change, reason in (
        ("coordination.measure_every=0", "measure_every is 0"),
        ("components.llm.tune=frozen", "nothing that learns"),
    ):
        with pytest.raises(RecipeError, match=reason):
            make_loop(tiny_recipe(root, "coordination.rule=feedforward", change))


def test_a_run_with_eight_bit_moments_resumes_to_the_bit(root: Path) -> None:
    pytest.importorskip("bitsandbytes")
    more = ("training.optimizer=adamw-8bit", "model.connector.hidden=512", "training.steps=8")
    whole = make_loop(tiny_recipe(root, *more, f"output={root}/whole"))
    run(whole)
    assert any(
        tensor.dtype == torch.uint8
        for state in whole.optimizer.state.values()
        for tensor in state.values()
        if isinstance(tensor, torch.Tensor)
    )
    recipe = tiny_recipe(root, *more, "training.snapshot_every=5")
    again = killed_and_resumed(recipe)
    assert all(tensor.equal(weights(again)[name]) for name, tensor in weights(whole).items())
