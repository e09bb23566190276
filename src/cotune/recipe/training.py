"""The recipe's section on training: how long, how large, how fast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from cotune.recipe.section import NonNegative, Part, Positive, Share, ShareBelowOne


class Training(Part):
    """The optimiser's job: how long, how large, how fast.

    A step learns from at most `batch_size` samples, `batch_tokens` tokens and `batch_media` pictures and sounds, of
    all processes together. The three `micro_batch_` values cut a process's share of it into parts that fit the memory
    (rows, tokens with their padding, media); the gradient is that of the whole batch. With `pack_tokens` samples
    share rows of at most so many tokens, none seeing another. `length_pool` batches are composed at a time, of
    samples of like length. `precision` is what products are computed in: `fp32` leaves every weight its own type (see
    `model.llm.dtype`), `bf16` and `fp16` narrow wider ones. `clip_norm` limits the gradients of all components
    `together`, or of each `component` by itself. `parallel`: `replicated` keeps the model whole in every process,
    `sharded` spreads the frozen language model over them. `trackers` are told every number of the trace as well. The
    newest `snapshots_kept` snapshots stay. A step whose loss or gradient is no number is skipped and counted;
    `skipped_in_a_row` of them end the run.
    """

    steps: PositiveInt
    batch_size: PositiveInt = 16
    batch_tokens: PositiveInt | None = None
    batch_media: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    micro_batch_tokens: PositiveInt | None = None
    micro_batch_media: PositiveInt | None = None
    pack_tokens: PositiveInt | None = None
    gradient_checkpointing: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    parallel: Literal["replicated", "sharded"] = "replicated"
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    warmup_steps: Annotated[int, Field(ge=0)] = 15
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    decay_share: Share = 0.4
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
    weight_decay: NonNegative = 0.02
    clip_norm: Positive | None = 1.0
    clip: Literal["together", "component"] = "together"
    length_pool: PositiveInt = 4
    evaluate_every: PositiveInt = 100
    snapshot_every: PositiveInt = 100
    snapshots_kept: PositiveInt = 2
    skipped_in_a_row: PositiveInt = 5
    threads: PositiveInt | None = None
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)
