"""What `cotune estimate` says, against formulas, real runs and real memory."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch.nn import functional

from cotune.adapters.attach import decoder
from cotune.coordination.components import components
from cotune.model.loading import build_model
from cotune.recipe import Recipe
from cotune.training.catalogue import find_recipe
from cotune.training.duration import from_operations
from cotune.training.estimate import estimate
from cotune.training.estimate_tables import print_estimate
from cotune.training.foretold import compare
from cotune.training.memory import optimizer_bytes, remembered
from cotune.training.optimizer import make_optimizer
from cotune.training.run import train
from tests.command_line import run
from tests.tiny import save_efficientnet, save_llm, save_questions, tiny_recipe

WIDTH, LAYERS, HEADS, KEY_HEADS, INNER, VOCABULARY = 64, 3, 4, 2, 96, 50
SHAPE = (
    f"model.llm.shape={{model_type: llama, hidden_size: {WIDTH}, intermediate_size: {INNER}, vocab_size: {VOCABULARY}, "
    f"num_hidden_layers: {LAYERS}, num_attention_heads: {HEADS}, num_key_value_heads: {KEY_HEADS}}}"
)


def lavin_parameters(width: int, layers: int) -> int:
    """LaVIN's trainable parameters by hand: rank 8 in 2 groups, 24 CLIP layers of width 1024, a projector of 128."""
    rank, groups = 8, 2

    def adapter(size: int) -> int:
        return (rank * size + rank) + 2 * (rank * size // groups + size) + (2 * size + 2)

    projector = 1024 * 128 + 128 + 128 * width + width
    return layers * adapter(width) + 24 * adapter(1024) + projector + 2 * width


@pytest.mark.parametrize(
    ("name", "width", "layers", "total", "megabytes"),
    [("lavin-7b", 4096, 32, 3_781_296, 15.1), ("lavin-13b", 5120, 40, 5_390_080, 21.6)],
)
def test_the_papers_models_have_the_papers_sizes(
    name: str, width: int, layers: int, total: int, megabytes: float
) -> None:
    found = estimate(find_recipe(name, ["training.micro_batch_size=1"]), tokens=64)
    assert found.trainable == lavin_parameters(width, layers) == total
    assert round(found.adapter_bytes / 1e6, 1) == megabytes
    assert found.feature_tokens == {"image": 6}
    # LLaMA: four attention matrices, three of the MLP, two norms a layer; embeddings, head and the last norm.
    inner = {4096: 11008, 5120: 13824}[width]
    llm = layers * (4 * width**2 + 3 * width * inner + 2 * width) + 2 * 32000 * width + width
    assert found.components["llm"].total - found.components["llm"].trainable == llm


@pytest.mark.parametrize("overrides", [[], ["model.llm.routing.mode=soft"], ["components.connector.tune=frozen"]])
def test_parameters_and_storage_are_those_of_a_real_run(root: Path, overrides: list[str]) -> None:
    recipe = tiny_recipe(root, "training.steps=1", *overrides)
    found = estimate(recipe)
    result = train(recipe, Console(file=StringIO()))
    assert found.trainable == result["trainable_parameters"]
    file = (recipe.folder / "adapter" / "adapter.safetensors").read_bytes()
    header = 8 + int.from_bytes(file[:8], "little")  # a length and a JSON stand in front of the values
    assert found.adapter_bytes == len(file) - header


def matrix_products(samples: int, tokens: int, answers: int, connector: int) -> tuple[int, int, int]:
    """Return the operations of a frozen tiny Llama by hand: layers forward, output layer, everything backward."""
    head = WIDTH // HEADS
    weights = 2 * WIDTH * WIDTH + 2 * WIDTH * KEY_HEADS * head + 3 * WIDTH * INNER
    attention = 2 * tokens * WIDTH  # scores, and their products with the values: two of each per token
    forward = LAYERS * samples * tokens * 2 * (weights + attention)
    output = 2 * samples * answers * WIDTH * VOCABULARY
    # The input's gradient of every frozen product; five products in a fused attention; both of the connector's weights
    # and the input of its second.
    backward = LAYERS * samples * tokens * 2 * (weights + 5 * attention // 2) + output
    return forward, output, backward + connector


def frozen_recipe(root: Path, *overrides: str) -> Recipe:
    frozen = ("components.llm.tune=frozen", "components.vision.tune=frozen")
    return tiny_recipe(root, SHAPE, *frozen, *overrides)


@given(samples=st.integers(1, 5), tokens=st.integers(2, 60), data=st.data())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_operations_of_a_frozen_model_are_those_of_its_products(
    tiny_root: Path, samples: int, tokens: int, data: st.DataObject
) -> None:
    answers = data.draw(st.integers(1, tokens))
    recipe = frozen_recipe(tiny_root, f"training.batch_size={samples}")
    found = estimate(recipe, tokens=tokens, answer_tokens=answers).operations
    assert found is not None
    first, second = 2 * samples * 360 * 8, 2 * samples * 8 * WIDTH  # 40 + 320 channels, one token a picture
    forward, output, backward = matrix_products(samples, tokens, answers, first + 2 * second)
    assert found.step == first + second + forward + output + backward
    assert found.forward_per_token == forward // (samples * tokens)
    assert found.run == recipe.training.steps * found.step
    assert found.once["image"] > 0


def test_adapters_add_their_own_products(root: Path) -> None:
    tuned = estimate(tiny_recipe(root, SHAPE, "components.vision.tune=frozen"), tokens=200).operations
    frozen = estimate(frozen_recipe(root), tokens=200).operations
    assert tuned is not None and frozen is not None
    rank, samples = 4, 4
    # Down, and up from a bottleneck with a 1 for the bias, for every token of every layer.
    products = 2 * WIDTH * (rank + rank + 1) * LAYERS * 200 * samples
    # Forward once, backward twice: the input's gradient and the weights'; mixing the experts comes on top, once a step.
    assert 3 * products <= tuned.step - frozen.step <= 3.05 * products


def test_checkpointing_computes_the_layers_twice_and_keeps_little(root: Path) -> None:
    plain, spared = (
        estimate(frozen_recipe(root, f"training.gradient_checkpointing={flag}"), tokens=400) for flag in ("no", "yes")
    )
    assert plain.operations is not None and spared.operations is not None
    again = plain.operations.forward_per_token * 400 * plain.assumed.batch_size
    assert spared.operations.step - plain.operations.step == again
    assert plain.memory.activations is not None and spared.memory.activations is not None
    inputs = LAYERS * 4 * 400 * WIDTH * 4
    assert inputs < spared.memory.activations < plain.memory.activations / 2


def test_micro_batches_take_the_same_operations_and_less_memory(root: Path) -> None:
    whole, halves = (estimate(frozen_recipe(root, f"training.micro_batch_size={size}")) for size in (4, 2))
    assert whole.operations == halves.operations
    assert whole.memory.activations == pytest.approx(2 * (halves.memory.activations or 0), rel=0.01)
    assert whole.memory.weights == halves.memory.weights


def test_quantised_weights_are_the_linear_layers_only(root: Path) -> None:
    plain = estimate(frozen_recipe(root, "model.llm.dtype=bfloat16")).memory.weights
    packed = estimate(frozen_recipe(root, "model.llm.dtype=bfloat16", "model.llm.quantize=nf4")).memory.weights
    linear = LAYERS * (2 * WIDTH * WIDTH + WIDTH * WIDTH + 3 * WIDTH * INNER)
    # Two bytes become half a byte and 8 + 32/256 bits of scale per 64 weights (Dettmers et al. 2023, section 3).
    assert plain - packed == pytest.approx(linear * (2 - (4 + (8 + 32 / 256) / 64) / 8), rel=1e-3)


def peak_of(step: Any) -> int:
    """Return the largest number of bytes that stood allocated at once during a call, those before it left out."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


@pytest.mark.parametrize(
    "overrides", [[], ["model.llm.routing.mode=soft"], ["model.llm.dtype=bfloat16"], ["components.llm.tune=lora"]]
)
def test_activations_and_logits_are_what_a_real_step_allocates(tmp_path: Path, overrides: list[str]) -> None:
    save_llm(tmp_path / "llm", layers=12)
    save_efficientnet(tmp_path / "encoder")
    save_questions(tmp_path / "train")
    tokens, answers = 256, 64
    recipe = tiny_recipe(tmp_path, *overrides)
    memory = estimate(recipe, tokens=tokens, answer_tokens=answers).memory
    model = build_model(recipe).train()
    encoder, connector = model.encoder("image"), model.connector("image")
    pixels = torch.randn(4, 3, 32, 32)

    def step() -> None:
        features = connector(encoder.features(encoder.trunk(pixels)))
        words = model.llm.get_input_embeddings()(torch.zeros(4, tokens - features.shape[1], dtype=torch.long))
        model.route(["image"] * 4)
        inputs = torch.cat([features.to(words.dtype), words], dim=1)
        hidden = decoder(model.llm)(inputs_embeds=inputs, use_cache=False).last_hidden_state
        logits = model.logits(hidden[:, -answers:].flatten(0, 1))
        functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()

    step()  # gradients are there from now on
    assert memory.activations is not None and memory.logits is not None
    # The gradients that pass through one layer at a time are in the range, not in the sum.
    size = memory.range
    steady = memory.weights + memory.gradients_and_optimizer
    assert size is not None
    assert size.low - steady <= peak_of(step) <= size.high - steady
    assert size.low < size.expected < size.high
    assert 0.9 <= (memory.activations + memory.logits) / peak_of(step) <= 1.0


def test_a_mixture_of_experts_has_its_parameters_counted_and_the_rest_left_open(root: Path) -> None:
    shape = (
        "{model_type: mixtral, hidden_size: 32, num_hidden_layers: 2, intermediate_size: 16, num_attention_heads: 4, "
        "num_key_value_heads: 2, vocab_size: 50, num_local_experts: 2}"
    )
    recipe = tiny_recipe(root, f"model.llm.shape={shape}")
    found = estimate(recipe)
    assert found.trainable > 0 and found.memory.weights > 0
    assert found.operations is None and found.memory.activations is None and found.memory.total is None
    assert "cannot be counted" in (found.not_counted or "")
    screen = StringIO()
    assert from_operations(found, 1.0) is None
    print_estimate(found, Console(file=screen, width=200))
    assert "cannot be counted" in screen.getvalue() and "hours" not in screen.getvalue()
    assert found.to_dict(tflops=1.0)["hours"] is None


def test_the_command_prints_tables_or_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "tiny.yaml"
    file.write_text(tiny_recipe(root).to_yaml())
    assert run("estimate", str(file), "training.steps=3600", "--tokens", "40", "--tflops", "0.001", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hours"] == pytest.approx(found["operations"]["step"] / 1e9)
    assert found["assumed"] | {"tokens": 40, "answer_tokens": 10, "micro_batch_size": 4} == found["assumed"]
    assert found["share"] == found["trainable"] / found["total"]
    memory = found["memory"]
    assert found["time"]["tflops"]["hours"] == pytest.approx(found["hours"])
    assert memory.pop("total") == sum(memory.values()) == found["memory_range"]["low"]
    parts = found["by_component"].values()
    assert sum(part["activations"] for part in parts) == memory["activations"]
    assert sum(part["gradients"] + part["optimizer"] for part in parts) == memory["gradients_and_optimizer"]
    # Buffers belong to no component.
    assert 0.9 * memory["weights"] < sum(part["weights"] for part in parts) <= memory["weights"]
    assert run("estimate", str(file)) == 0
    printed = capsys.readouterr().out
    assert (
        f"{found['trainable']:,}" in printed and f"{found['total']:,}" in printed and "Tokens per picture: 1" in printed
    )


def test_three_real_steps_give_hours_and_cost_and_leave_nothing_behind(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "tiny.yaml"
    file.write_text(tiny_recipe(root, "training.steps=3600").to_yaml())
    before = sorted(root.iterdir())
    assert run("estimate", str(file), "--probe", "--price-per-hour", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    [(source, time)] = found["time"].items()
    assert found["assumed"]["tokens"] == time["tokens"] < 100
    assert found["assumed"]["answer_tokens"] == time["answer_tokens"]
    assert source == "probe" and time["step_seconds"] > 0
    assert time["hours"] == pytest.approx(time["step_seconds"])
    assert time["cost"] == pytest.approx(2 * time["hours"])
    assert sorted(root.iterdir()) == before
    assert run("estimate", str(file), "--price-per-hour", "2") == 1
    assert "add --probe or --tflops" in capsys.readouterr().err


def test_hours_and_cost_from_operations_are_printed(root: Path) -> None:
    found = estimate(tiny_recipe(root), tokens=40)
    time = from_operations(found, 0.5, price_per_hour=3.0)
    assert time is not None and found.operations is not None
    assert time.hours == found.operations.run / 0.5e12 / 3600
    assert time.step_seconds == pytest.approx(found.operations.step / 0.5e12)
    assert time.cost == 3.0 * time.hours
    screen = StringIO()
    print_estimate(found, Console(file=screen, width=200), [time])
    assert "From the operations:" in screen.getvalue() and "at 3 an hour" in screen.getvalue()


@pytest.mark.parametrize(("rule", "options"), [("constant", "{}"), ("prodigy", "{}"), ("prodigy", "{slice_p: 11}")])
def test_what_the_optimiser_remembers_is_what_it_was_estimated_to(root: Path, rule: str, options: str) -> None:
    recipe = tiny_recipe(root, f"coordination.rule={rule}", f"coordination.options={options}")
    model = build_model(recipe)
    parts = components(model)
    optimizer = make_optimizer(parts, recipe.training, recipe.coordination)
    learning = [parameter for part in parts.values() for parameter in part.trainable]
    for parameter in learning:
        parameter.data.fill_(1.0)  # prodigy stores the start of a tensor of zeros as one number
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    taken = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key != "step"
    )
    assert optimizer_bytes(recipe, learning) == taken


def test_eight_bit_moments_take_what_bitsandbytes_allocates() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    parameters = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((100, 7), (64, 64), (300, 41))]
    optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = [
        sum(
            value.numel() * value.element_size()
            for key, value in optimizer.state[parameter].items()
            if isinstance(value, torch.Tensor) and not key.startswith("qmap")  # tables all tensors share
        )
        for parameter in parameters
    ]
    assert found == [remembered("adamw-8bit", {}, parameter) for parameter in parameters]


def test_a_run_says_what_was_estimated_and_what_it_took(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "tiny.yaml"
    file.write_text(tiny_recipe(root).to_yaml())
    assert run("train", str(file)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    told = json.loads((root / "run" / "result.json").read_text())["estimate"]
    assert told["memory_low_bytes"] < told["memory_expected_bytes"] < told["memory_high_bytes"]
    assert "operations" in printed and "TFLOP/s kept up" in printed
    result = json.loads((root / "run" / "result.json").read_text())
    assert told["step_seconds"] == pytest.approx(result["seconds"] / 6, abs=0.02)
    assert told["tflops_kept_up"] == pytest.approx(told["operations"] / (6 * told["step_seconds"]) / 1e12)
    assert "A step: 4 samples" in printed and "GiB expected (at least" in printed and "beside Python)" in printed
    assert "Precision: language model in float32, what learns in float32; on cpu" in printed


def test_the_comparison_leaves_out_what_the_process_held_before(root: Path) -> None:
    found = estimate(tiny_recipe(root), tokens=40)
    assert found.operations is not None
    told = compare(found, held_before=30, peak=100, on_gpu=False, tokens=320, steps=2, seconds=4.0)
    assert told is not None and told["memory_taken_bytes"] == 70 and told["step_seconds"] == 2.0
    assert told["operations"] == 2 * found.operations.step
    on_gpu = compare(found, held_before=30, peak=100, on_gpu=True, tokens=1, steps=1, seconds=1.0)
    assert on_gpu is not None and on_gpu["memory_taken_bytes"] == 100
    assert compare(None, held_before=0, peak=1, on_gpu=True, tokens=1, steps=1, seconds=1.0) is None


def test_the_command_asks_for_a_shape_when_nothing_lies_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("estimate", "own-model") == 1
    assert "model.llm.shape" in capsys.readouterr().err
