"""What a recipe will take, before anything is downloaded: parameters, storage, memory, floating-point operations.

Counted, on the real classes without weights: parameters, the adapter file, weights in memory, the operations of a step
and the bytes autograd keeps for it. A model of memory: the sum of these parts. It holds no CUDA context, no
fragmentation of the allocator and no workspace of kernels, so leave a tenth free.

Operations per token of a frozen language model with P weights in its layers: 2P forward and 2P backward, since only the
gradients of activations are computed (4P; tuning everything takes 6P), and on top those of attention, adapters and of
the output layer at the tokens that carry loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from cotune.coordination.components import components
from cotune.coordination.finding import find_by_name
from cotune.errors import ModelError
from cotune.model.checkpoint import saved_tensors
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.shapes import shapes_of
from cotune.recipe import Recipe
from cotune.training.chunked_loss import chunk_rows
from cotune.training.dry_step import StepCount, count_step
from cotune.training.memory import ComponentMemory, MemoryRange, memory_by_component, memory_range

USUAL_TOKENS = 512
# Bytes per weight of a quantised linear layer: 4 bits and a doubly quantised scale per 64 (QLoRA, section 3); 8 bits
# and a scale per row of some thousand.
QUANTISED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.001}


@dataclass(frozen=True)
class Assumed:
    """What the numbers are for: the length of a sample, how many of its tokens carry loss, samples at a time."""

    tokens: int
    answer_tokens: int
    micro_batch_size: int
    batch_size: int
    steps: int


@dataclass(frozen=True)
class Part:
    """One component: how it learns, and its parameters."""

    tune: str
    trainable: int
    total: int


@dataclass(frozen=True)
class Memory:
    """Bytes while training; `activations` is None for a model that cannot be counted on shapes alone."""

    weights: int
    gradients_and_optimizer: int
    activations: int | None
    logits: int | None

    @property
    def total(self) -> int | None:
        """The sum, as far as everything is known."""
        if self.activations is None or self.logits is None:
            return None
        return self.weights + self.gradients_and_optimizer + self.activations + self.logits

    @property
    def range(self) -> MemoryRange | None:
        """What a step takes at least, probably and at most, as far as everything is known."""
        if self.activations is None or self.logits is None:
            return None
        return memory_range(self.weights, self.gradients_and_optimizer, self.activations, self.logits)


@dataclass(frozen=True)
class Operations:
    """Floating-point operations, two per multiply-add.

    `once` is per picture or sound, for what is computed once and kept; it is not part of `step` and `run`.
    """

    forward_per_token: int
    step: int
    run: int
    once: dict[str, int]

    def hours(self, tflops: float) -> float:
        """Return the hours of the whole run on a device that does `tflops` * 10^12 operations a second."""
        return self.run / (tflops * 1e12) / 3600


@dataclass(frozen=True)
class Estimate:
    """Everything `cotune estimate` says about a recipe; `not_counted` is why operations and activations are missing."""

    name: str
    components: dict[str, Part]
    adapter_bytes: int
    feature_tokens: dict[str, int]
    memory: Memory
    by_component: dict[str, ComponentMemory]
    operations: Operations | None
    assumed: Assumed
    not_counted: str | None = None

    @property
    def trainable(self) -> int:
        """All trainable parameters."""
        return sum(part.trainable for part in self.components.values())

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(part.total for part in self.components.values())

    def to_dict(self, tflops: float | None = None) -> dict[str, Any]:
        """Return everything for JSON, sums and hours included."""
        result = asdict(self)
        result |= {"trainable": self.trainable, "total": self.total, "share": self.trainable / self.total}
        result["memory"]["total"] = self.memory.total
        result["memory_range"] = None if self.memory.range is None else asdict(self.memory.range)
        if tflops is not None:
            result["tflops"] = tflops
            result["hours"] = None if self.operations is None else self.operations.hours(tflops)
        return result


def estimate(recipe: Recipe, *, tokens: int | None = None, answer_tokens: int | None = None) -> Estimate:
    """Return what a recipe will take, for samples of `tokens` tokens with one picture and sound each.

    `tokens` counts feature tokens too and is 512 by default, or `data.max_tokens` when that is less; a quarter of them
    carry loss unless `answer_tokens` says otherwise.

    Raises:
        ModelError: when a model's shape is neither in the recipe nor on this machine.
    """
    model = shapes_of(recipe)
    assumed = _assumed(recipe, tokens, answer_tokens)
    parts = components(model)
    # Counted before the step: its attention is another one.
    weights = weight_bytes(model, recipe.model.llm.quantize)
    adapter_bytes = sum(tensor.numel() * tensor.element_size() for tensor in saved_tensors(model).values())
    count, problem = _count(model, assumed)
    llm_activations = None if count is None else _llm_activations(recipe, model, count, assumed)
    memory = memory_by_component(recipe, find_by_name(model, {}), weights, count, llm_activations)
    return Estimate(
        name=recipe.name,
        components={
            name: Part(getattr(recipe.components, name).tune, part.trainable_count, part.total)
            for name, part in parts.items()
        },
        adapter_bytes=adapter_bytes,
        feature_tokens=dict(model.template.media_tokens),
        memory=Memory(
            sum(weights.values()),
            sum(part.gradients + part.optimizer for part in memory.values()),
            None if count is None else sum(part.activations or 0 for part in memory.values()),
            None if count is None else _logits(recipe, model, count, assumed),
        ),
        by_component=memory,
        operations=None if count is None else _operations(recipe, count, assumed),
        assumed=assumed,
        not_counted=problem,
    )


def _assumed(recipe: Recipe, tokens: int | None, answer_tokens: int | None) -> Assumed:
    settings = recipe.training
    tokens = tokens or min(USUAL_TOKENS, recipe.data.max_tokens)
    return Assumed(
        tokens=tokens,
        answer_tokens=min(answer_tokens or max(tokens // 4, 1), tokens),
        micro_batch_size=min(settings.micro_batch_size or settings.batch_size, settings.batch_size),
        batch_size=settings.batch_size,
        steps=settings.steps,
    )


def weight_bytes(model: MultimodalLM, quantize: str | None) -> dict[Tensor, int]:
    """Return the bytes of every weight and buffer; linear layers inside a quantised language model take fewer."""
    packed = _quantised_weights(model.llm, QUANTISED_BYTES[quantize]) if quantize else {}
    tensors = dict.fromkeys([*model.parameters(), *model.buffers()])
    return {tensor: packed.get(tensor, tensor.numel() * tensor.element_size()) for tensor in tensors}


def _quantised_weights(llm: Any, per_weight: float) -> Mapping[Any, int]:
    """Return the bytes of the weights that are quantised: all linear layers but the output layer."""
    linears = [module for module in llm.modules() if isinstance(module, nn.Linear)]
    kept = llm.get_output_embeddings()
    return {linear.weight: round(linear.weight.numel() * per_weight) for linear in linears if linear is not kept}


def _count(model: MultimodalLM, assumed: Assumed) -> tuple[StepCount | None, str | None]:
    try:
        return count_step(model, assumed.micro_batch_size, assumed.tokens, assumed.answer_tokens), None
    except ModelError as error:
        return None, str(error)


def _llm_activations(recipe: Recipe, model: MultimodalLM, count: StepCount, assumed: Assumed) -> int:
    """Return the bytes autograd keeps for the layers of the language model."""
    llm = count.kept["llm"]
    if not recipe.training.gradient_checkpointing:
        return llm
    config = model.llm.config.get_text_config()
    inputs: int = assumed.micro_batch_size * assumed.tokens * config.hidden_size * model.llm.dtype.itemsize
    # The input of every layer, and one layer whole while it is computed again.
    return inputs * int(config.num_hidden_layers) + llm // int(config.num_hidden_layers)


def _logits(recipe: Recipe, model: MultimodalLM, count: StepCount, assumed: Assumed) -> int:
    """Return what is held of the logits at a time, and of their gradient in fp32; on a GPU, where a chunk is larger."""
    vocabulary: int = model.llm.get_output_embeddings().weight.shape[0]
    tokens = assumed.micro_batch_size * assumed.answer_tokens
    whole = count.kept["logits"] + 4 * tokens * vocabulary
    if recipe.coordination.regularizer.weight or not model.output_is_frozen:
        return whole
    return round(whole * min(1.0, chunk_rows(vocabulary, on_gpu=True) / tokens))


def _operations(recipe: Recipe, count: StepCount, assumed: Assumed) -> Operations:
    again = count.llm if recipe.training.gradient_checkpointing else 0
    step = round((count.total + again) * assumed.batch_size / assumed.micro_batch_size)
    return Operations(
        forward_per_token=count.llm // (assumed.micro_batch_size * assumed.tokens),
        step=step,
        run=step * assumed.steps,
        once=count.once,
    )
