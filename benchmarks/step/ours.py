"""cotune's side of the training-step benchmark: rounds of the recipe's own training loop."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper
from worker import COUNT, ROUND, Cost, Worker, touch
from workload import Plan, recipe_for

from cotune.data.collate import Batch
from cotune.data.template import IGNORED
from cotune.model import loading
from cotune.model.multimodal_lm import MultimodalLM
from cotune.run_folder import RunFolder
from cotune.training import model_passes
from cotune.training.loop import TrainingLoop
from cotune.training.prepare import make_batches
from cotune.training.run import prepare_training


def logits_everywhere(model: MultimodalLM, batch: Batch, *_: Any) -> Tensor:
    """Return the summed loss with logits for every position, padding included, as most training code makes them."""
    hidden = model._hidden(model.embed(batch), batch)  # [batch, tokens, width]
    logits = model.logits(hidden.flatten(0, 1))
    return functional.cross_entropy(logits, batch.targets.flatten(), reduction="sum", ignore_index=IGNORED)


def logits_at_once(model: MultimodalLM, batch: Batch, *_: Any) -> Tensor:
    """Return the summed loss with the logits of all answers of a pass in memory at once."""
    logits, targets = model(batch)
    return functional.cross_entropy(logits, targets, reduction="sum")


LOSSES = {"everywhere": logits_everywhere, "at-once": logits_at_once}


def attention_forward(query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    """Return an attention kernel's operations: two products; of causal attention the half that is needed."""
    batch, heads, tokens, width = query
    return 4 * batch * heads * tokens * int(key[2]) * width // (2 if causal else 1)


def attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, out: Any, sums: Any, dropout: float, causal: bool, **_: Any
) -> int:
    """Return the operations of its gradient: four products; the scores that it computes again are not counted."""
    return 2 * attention_forward(query, key, value, dropout, causal)


def make_loop(options: dict[str, Any], folder: Path) -> TrainingLoop:
    """Return the training loop of a contestant."""
    plan = Plan(**options["plan"])
    recipe = recipe_for(plan, Path(options["data"]), options["precision"], options["changes"])
    if options["loss"]:
        model_passes.pass_loss = LOSSES[options["loss"]]
    if options["layers"] == "plain":
        loading.keep_less = lambda *_: 0
    console = Console(quiet=True)
    prepared = prepare_training(recipe, console)
    if options["attention"]:
        prepared.model.llm.set_attn_implementation(options["attention"])
    batches = make_batches(recipe, prepared.samples, prepared.model)
    return TrainingLoop(recipe, prepared.model, batches, prepared.loaders, RunFolder(folder), console)


class Operations(TorchDispatchMode):
    """Counts floating-point operations, two per multiply-add, by PyTorch's formulas and those above.

    `FlopCounterMode` does the same, but cannot look into gradients that are taken inside a forward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        kernels = torch.ops.aten
        self.total = 0
        self.formulas = {
            **flop_registry,
            kernels._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(attention_forward),
            kernels._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(attention_backward),
        }

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a kernel's operations, and run it."""
        result = function(*args, **(kwargs or {}))
        if formula := self.formulas.get(function._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def main() -> None:
    """Serve rounds until there are no more requests."""
    options = json.loads(sys.argv[1])
    worker = Worker()
    loop = make_loop(options, Path(options["folder"]))
    steps = options["plan"]["samples"] // options["plan"]["batch_size"]
    touch(loop.model.parameters())
    cost = Cost()
    worker.tell(threads=torch.get_num_threads())
    while request := worker.wait():
        if request == COUNT:
            with Operations() as counted:
                loop.try_steps(steps)
            worker.tell(operations=counted.total)
        elif request == ROUND:
            padded, seen = loop.costs.padding, loop.costs.tokens
            loop._losses.clear()
            cost.start()
            loop.try_steps(steps)
            found = cost.stop()
            padding = loop.costs.padding - padded
            share = padding / (padding + loop.costs.tokens - seen)
            worker.tell(**found, loss=loop._recent_loss(), padding=share)


if __name__ == "__main__":
    main()
