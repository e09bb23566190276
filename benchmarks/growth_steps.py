"""Steps of tiny random models on the CPU, by their size: processor seconds, and bytes kept for the backward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from curve import Curve
from measuring import take_turns
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cotune.adapters import MMAdapterConfig, attach
from cotune.data.collate import Batch, Features
from cotune.data.template import IGNORED
from cotune.messages import IMAGE
from cotune.model.connector import Connector
from cotune.model.cpu_attention import attend_on_cpu
from cotune.model.encoders.feature_encoder import FeatureEncoder, Trunk
from cotune.model.multimodal_lm import MultimodalLM

VOCABULARY, LAYERS, RANK, ANSWER, FEATURES = 512, 4, 8, 16, 64
# Floats kept for the backward pass per token, layer and unit of width: inputs of norms, products and activations.
KEPT_WIDTHS = 30


@dataclass(frozen=True)
class Shape:
    """A step: rows of words, behind a picture's tokens where there are any; rows take turns with the modalities."""

    rows: int = 2
    words: int = 128
    picture: int = 0
    width: int = 128
    modalities: int = 1

    @property
    def tokens(self) -> int:
        """The tokens of a row."""
        return self.words + self.picture


AXES: dict[str, tuple[str, tuple[int, ...], Callable[[int], Shape]]] = {
    "sequence": ("sequence length, tokens", (128, 256, 512, 1024, 2048), lambda size: Shape(words=size)),
    "picture": ("tokens of a picture", (64, 128, 256, 512, 1024), lambda size: Shape(words=64, picture=size)),
    "width": ("language model's width", (64, 128, 256, 512, 1024), lambda size: Shape(width=size)),
    "modalities": ("modalities", (2, 4, 8, 16, 32), lambda size: Shape(rows=32, words=32, modalities=size)),
}


class Given(FeatureEncoder):
    """An encoder whose features are given."""

    medium, width = IMAGE, FEATURES

    def preprocess(self, loaded: Any) -> Tensor:
        """Return what is given."""
        return loaded

    def trunk(self, batch: Tensor) -> Trunk:
        """Return what is given."""
        return {"features": batch}

    def features(self, trunk: Trunk) -> Tensor:
        """Return what is given, [pictures, tokens, width]."""
        return trunk["features"]


class Step:
    """One training step of a shape, to be taken again and again."""

    def __init__(self, shape: Shape) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.width,
            intermediate_size=4 * shape.width,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=4096,
        )
        llm = LlamaForCausalLM(config).eval()
        attend_on_cpu(llm)
        names = [f"modality {number}" for number in range(shape.modalities)]
        adapters = attach(llm, MMAdapterConfig(rank=RANK, text="trained"), names)
        encoder = Given()
        encoder.network = torch.nn.Identity()
        connector = Connector(FEATURES, 32, shape.width, 1.0)
        self.model = MultimodalLM(llm, None, {IMAGE: encoder}, {IMAGE: connector}, adapters)  # type: ignore[arg-type]
        self.batch = _batch(shape, names)
        self.optimizer = torch.optim.AdamW([part for part in self.model.parameters() if part.requires_grad])

    def __call__(self) -> None:
        """Take the step."""
        self.optimizer.zero_grad()
        logits, targets = self.model(self.batch)
        functional.cross_entropy(logits, targets).backward()
        self.optimizer.step()

    def seconds(self) -> float:
        """Return the processor seconds of the step: other work on the machine does not count."""
        started = time.process_time()
        self()
        return time.process_time() - started

    def operations(self) -> float:
        """Return the floating-point operations of all products, half of the scores left out: causal kernels do so.

        The fused kernel of CPUs is not counted, so what attention takes is counted on the plain one.
        """
        without = self._counted()
        used = self.model.llm.config._attn_implementation
        self.model.llm.set_attn_implementation("eager")
        both = self._counted()
        self.model.llm.set_attn_implementation(used)
        return without + (both - without) / 2

    def _counted(self) -> int:
        with FlopCounterMode(display=False) as counted:
            self()
        return int(counted.get_total_flops())

    def kept_bytes(self) -> int:
        """Return the bytes autograd keeps for the backward pass, weights left out."""
        own = {tensor.untyped_storage().data_ptr() for tensor in self.model.parameters()}
        seen: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if (place := tensor.untyped_storage().data_ptr()) not in own:
                seen.setdefault(place, tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.model(self.batch)
            return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _batch(shape: Shape, names: Sequence[str]) -> Batch:
    """Return random tokens with loss on the last of every row, behind the places of a picture's features."""
    tokens = torch.randint(VOCABULARY, (shape.rows, shape.tokens))
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -ANSWER:] = tokens[:, -ANSWER:]
    features = {}
    if shape.picture:
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        mask[:, : shape.picture] = True
        features[IMAGE] = Features({"features": torch.randn(shape.rows, shape.picture, FEATURES)}, mask)
    modalities = [names[row % len(names)] for row in range(shape.rows)]
    return Batch(tokens, targets, [shape.tokens] * shape.rows, modalities, features)


def expected_bytes(shape: Shape) -> float:
    """Return about how many bytes a step keeps: so many widths a token and layer, and every expert's bottleneck."""
    experts = 2 * RANK * shape.modalities if shape.modalities > 1 else RANK
    return 4.0 * shape.rows * shape.tokens * LAYERS * (KEPT_WIDTHS * shape.width + experts)


def model_curves(name: str, rounds: int, points: int) -> dict[str, Curve]:
    """Return the curves of time and memory along one of the axes."""
    title, sizes, shape_of = AXES[name]
    shapes = {size: shape_of(size) for size in sizes[:points]}
    steps = {size: Step(shape) for size, shape in shapes.items()}
    kept = [float(step.kept_bytes()) for step in steps.values()]
    operations = [step.operations() for step in steps.values()]
    ways = {str(size): step.seconds for size, step in steps.items()}
    take_turns(ways, 1)
    found = list(take_turns(ways, rounds).values())
    at = [float(size) for size in steps]
    formula = f"bytes of {KEPT_WIDTHS} widths a token and layer, and the experts' bottlenecks"
    expected = [expected_bytes(shape) for shape in shapes.values()]
    return {
        f"{name}_time": Curve(
            f"step time by {title}",
            "processor s",
            at,
            list(map(median, found)),
            operations,
            "operations counted",
            found,
        ),
        f"{name}_memory": Curve(f"kept for backward by {title}", "bytes", at, kept, expected, formula),
    }
