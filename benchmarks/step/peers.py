"""The peers of the training-step benchmark: TRL's SFTTrainer with PEFT, and transformers' Trainer on a plain LLaVA.

Runs in an environment of its own, without cotune. A trainer runs through its data again and again, one epoch a round;
between epochs it waits for the request, so that nothing it does once is counted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
from worker import ROUND, Cost, Worker, touch

_MANY = 10_000


class RoundByRound(TrainerCallback):
    """Lets every epoch wait for its request and answers with its cost."""

    def __init__(self, worker: Worker, cost: Cost) -> None:
        self.worker, self.cost = worker, cost

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait until a round is asked for; leave when none will be."""
        if self.worker.wait() != ROUND:
            os._exit(0)
        self.cost.start()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell what the round took."""
        self.worker.tell(**self.cost.stop())


class PlainLlava(nn.Module):
    """Picture features -> two linear layers -> frozen language model, in full padded batches, with all logits.

    What transformers' LLaVA does, without its vision tower: the features come finished, and cost nothing.
    """

    def __init__(self, llm: Any, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.llm, self.scale = llm.requires_grad_(False), scale
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, llm.config.hidden_size))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, features: Tensor, places: Tensor, **loss: Any
    ) -> Any:
        """Return the language model's output, loss first; `places` [batch, tokens] is true where features belong."""
        embeddings = self.llm.get_input_embeddings()(input_ids)
        tokens = self.projector(features) * self.scale  # [pictures, tokens, width]
        embeddings = embeddings.masked_scatter(places.unsqueeze(-1), tokens.to(embeddings.dtype))
        return self.llm(inputs_embeds=embeddings, attention_mask=attention_mask, labels=labels, use_cache=False, **loss)


def padded(samples: list[dict[str, Any]], filler: int, features: Tensor) -> dict[str, Tensor]:
    """Return a batch padded to its longest sample."""
    longest = max(len(sample["tokens"]) for sample in samples)
    places = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        if sample["span"]:
            places[row, slice(*sample["span"])] = True
    rows = [sample["row"] for sample in samples if sample["row"] is not None]

    def fill(key: str, value: int) -> Tensor:
        return torch.tensor([sample[key] + [value] * (longest - len(sample[key])) for sample in samples])

    lengths = torch.tensor([len(sample["tokens"]) for sample in samples])
    return {
        "input_ids": fill("tokens", filler),
        "labels": fill("labels", -100),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "features": features[rows],
        "places": places,
    }


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return what both trainers are told: AdamW at a constant rate, no logs, nothing saved."""
    chosen = dict(options["arguments"])
    rows = chosen.pop("rows", options["plan"]["batch_size"])
    return {
        "output_dir": options["folder"],
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": options["plan"]["batch_size"] // rows,
        "num_train_epochs": _MANY,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": options["precision"] == "bf16",
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        **chosen,
    }


def plain_llava(options: dict[str, Any], content: dict[str, Any], llm: Any) -> Trainer:
    """Return transformers' trainer of a projector in front of the frozen model."""
    tokenizer = AutoTokenizer.from_pretrained(content["language_model"])
    features = load_file(Path(options["data"]).with_suffix(".safetensors"))["features"]
    model = PlainLlava(llm, features.shape[-1], content["hidden"], content["scale"])
    return Trainer(
        model,
        TrainingArguments(**arguments(options)),
        train_dataset=content["samples"],
        data_collator=lambda samples: padded(samples, tokenizer.pad_token_id or 0, features),
    )


def trl_with_lora(options: dict[str, Any], content: dict[str, Any], llm: Any) -> Trainer:
    """Return TRL's trainer of LoRA on queries and values; the picture's tokens are tokens like others."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": sample["tokens"], "labels": sample["labels"]} for sample in content["samples"]]
    return SFTTrainer(
        llm,
        SFTConfig(**arguments(options)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(content["language_model"]),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )


TRAINERS = {"trl": trl_with_lora, "llava": plain_llava}


def main() -> None:
    """Train, one epoch for every request."""
    options = json.loads(sys.argv[1])
    worker = Worker()
    content = json.loads(Path(options["data"]).read_text(encoding="utf-8"))
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    llm = AutoModelForCausalLM.from_pretrained(content["language_model"], dtype=dtype)
    trainer = TRAINERS[options["kind"]](options, content, llm)
    touch(trainer.model.parameters())
    trainer.add_callback(RoundByRound(worker, Cost()))
    worker.tell(threads=torch.get_num_threads())
    trainer.train()


if __name__ == "__main__":
    main()
