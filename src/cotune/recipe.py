"""The recipe: one typed object that says everything about a run; the CLI and Python take the same one.

Unknown keys are refused with the nearest name, and all errors of a recipe are reported at once (`recipe_reading`). The
resolved recipe (every default written out) is saved beside the result, so that a run can be repeated from its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from cotune.messages import AUDIO, IMAGE
from cotune.plain_yaml import dump_yaml
from cotune.recipe_coordination import Coordination
from cotune.recipe_evaluation import Evaluation
from cotune.recipe_section import Part, Positive, Share, ShareBelowOne

Tune = Literal["adapters", "full", "lora", "dora", "frozen"]
VisionRouter = Literal["per-image", "per-token", "first-of-batch"]


# The encoder components and the media they read.
COMPONENT_MEDIUM = {"vision": IMAGE, "audio": AUDIO}


class AdapterSettings(Part):
    """Shape of the mixture-of-modality adapters (LaVIN, section 3.2); `rank` is that of LoRA and DoRA too.

    `sites` names the modules whose input is adapted, as patterns over module names, for a model whose layers are not
    found by themselves.
    """

    rank: PositiveInt = 8
    groups: PositiveInt = 2
    scale: float = 1.0
    dropout: ShareBelowOne = 0.0
    bias: bool = True
    placement: Literal["attention", "block"] = "attention"
    sites: list[str] | None = None

    @model_validator(mode="after")
    def _groups_divide_rank(self) -> AdapterSettings:
        if self.rank % self.groups:
            raise ValueError(f"groups ({self.groups}) must divide rank ({self.rank})")
        return self


class EncoderAdapterSettings(AdapterSettings):
    """Adapters inside an encoder; with several experts a router mixes them for each input by itself."""

    experts: PositiveInt = 1
    temperature: Positive = 10.0


class Routing(Part):
    """How a modality chooses its expert: `hard` owns one, `soft` mixes by a router (LaVIN, equation 4).

    `weights` says how a router is read: in a `table` made by a pass of its own, or `inline`, from a modality token in
    front of every sequence.
    """

    mode: Literal["hard", "soft", "soft-legacy"] = "hard"
    text: Literal["base", "trained"] = "base"
    temperature: Positive = 10.0
    experts: PositiveInt = 2
    weights: Literal["table", "inline"] = "table"


class LanguageModel(Part):
    """The frozen language model; `shape` is what its config.json holds, for `cotune estimate` without a download."""

    path: str
    shape: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    quantize: Literal["nf4", "int8"] | None = None
    chat_template: str | None = None
    adapters: AdapterSettings = AdapterSettings()
    routing: Routing = Routing()


class Encoder(Part):
    """A frozen encoder and which of its layers (`taps`) are read."""

    kind: str = "huggingface"
    path: str
    shape: dict[str, Any] | None = None
    taps: Annotated[list[str], Field(min_length=1, default_factory=lambda: ["last"])]
    weights: Literal["pretrained", "random"] = "pretrained"
    adapters: EncoderAdapterSettings = EncoderAdapterSettings()


class ImageEncoder(Encoder):
    """An image encoder and what becomes of its features.

    `pooling`: `grid` averages the patches of all taps to `grid` x `grid` tokens; `pixel-shuffle` lays `shuffle` x
    `shuffle` neighbouring patches side by side in one token; `cls` makes one token of each tap's class token.
    `adapted_stages` says how many of a convolutional encoder's last stages get adapters; what lies in front of them
    stays frozen, and its output is computed once per picture. `preprocessing`: `imagenet-stretch` resizes to the
    encoder's square without keeping the aspect ratio and normalises by ImageNet's statistics, as LaVIN did.
    """

    image_size: PositiveInt = 224
    pooling: Literal["grid", "pixel-shuffle", "cls"] = "grid"
    grid: PositiveInt = 2
    shuffle: PositiveInt = 2
    adapted_stages: PositiveInt = 1
    preprocessing: Literal["model", "imagenet-stretch"] = "model"


class AudioEncoder(Encoder):
    """A sound encoder: the first `max_seconds` of a sound, averaged over time to `frames` tokens."""

    frames: PositiveInt = 8
    max_seconds: Positive = 30.0


class Encoders(Part):
    """The encoders by medium."""

    image: ImageEncoder | None = None
    audio: AudioEncoder | None = None

    @property
    def by_medium(self) -> dict[str, Encoder]:
        """The encoders the recipe names, by medium, in alphabetical order."""
        named: dict[str, Encoder | None] = {AUDIO: self.audio, IMAGE: self.image}
        return {medium: encoder for medium, encoder in named.items() if encoder is not None}


class Connector(Part):
    """The two-layer map from encoder features to the width of the language model; each encoder has its own."""

    hidden: PositiveInt = 128
    standardize: bool = True


class Legacy(Part):
    """Slips of the original LaVIN code, for scoring its released adapters as its authors did; never for training.

    `decode_positions: off-by-one` gives the first generated token the position of the prompt's last one;
    `vision_router: first-of-batch` routes every picture by the first one of its batch, token by token; `per-token` is
    the same for a picture alone in its batch, whatever its batch is.
    """

    decode_positions: Literal["right", "off-by-one"] = "right"
    vision_router: VisionRouter = "per-image"


class Model(Part):
    """Which models are joined, and how."""

    llm: LanguageModel
    encoders: Encoders = Encoders()
    connector: Connector = Connector()
    legacy: Legacy = Legacy()


class ComponentSettings(Part):
    """How one component learns: what is trained in it and its peak learning rate."""

    tune: Tune
    rate: Positive = 1e-3


class EncoderSettings(ComponentSettings):
    """An encoder: frozen unless said otherwise."""

    tune: Tune = "frozen"


class ConnectorSettings(ComponentSettings):
    """The connector: new weights, so trained as a whole."""

    tune: Literal["full", "frozen"] = "full"


class LanguageModelSettings(ComponentSettings):
    """The language model: adapters unless said otherwise."""

    tune: Tune = "adapters"


class Components(Part):
    """Freezing and learning rates, by component."""

    vision: EncoderSettings = EncoderSettings()
    audio: EncoderSettings = EncoderSettings()
    connector: ConnectorSettings = ConnectorSettings()
    llm: LanguageModelSettings = LanguageModelSettings()


class Balance(Part):
    """Draws a value of each `by` key in turn, uniformly among those left, then a sample that has them all.

    `shares` replaces the uniform draw of the first key. Values come from the sample's `meta`.
    """

    by: Annotated[list[str], Field(min_length=1)]
    shares: dict[str, Share] | None = None


class Conversation(Part):
    """Joins up to `turns` samples about the same media into one conversation, drawn anew every time.

    Earlier answers then stand in the text, from which the later questions are easier to learn; the first question of
    each is still answered from the media alone. The `single` share of draws stays one question.
    """

    turns: Annotated[int, Field(ge=2)]
    single: Share = 0.0


class Source(Part):
    """One data set: a file or folder, who reads it (`options` are that reader's), and how often it is drawn.

    Where nothing but the path is said, the path alone may stand for it.
    """

    path: str
    reader: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    media: str | None = None
    weight: Positive = 1.0
    limit: PositiveInt | None = None
    balance: Balance | None = None
    conversation: Conversation | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


def _in_list(value: Any) -> Any:
    """Return a source that stands alone as a list of it."""
    return [value] if isinstance(value, str | dict) else value


Sources = Annotated[list[Source], BeforeValidator(_in_list)]


class Data(Part):
    """What is learned from, chosen on and scored; a path in its place is trained on.

    `validation_share` holds that share of the training *images* (or samples without media) out of training.
    `blank_media` keeps the images out of the model's sight: the honest text-only baseline. `too_long` says what becomes
    of samples of more than `max_tokens` tokens: `error` refuses them before training, `drop` leaves them out,
    `cut-text` cuts text, never a picture or sound; what was left out or cut is counted and named. `bad_media` says what
    comes of samples whose pictures or sounds cannot be used: they stop the run, are dropped, or get a blank one in its
    place; `media_check: quick` looks at the beginning and the end of every file, `full` decodes it. Files outside of
    the media folder, and URLs, are refused unless allowed. `workers` threads load the media of coming steps, where
    their encoder learns and nothing could be computed once; no bit of a run depends on how many.
    """

    train: Annotated[Sources, Field(min_length=1)]
    validation_share: ShareBelowOne = 0.1
    test: Sources = Field(default_factory=list)
    blank_media: bool = False
    max_tokens: PositiveInt = 2048
    too_long: Literal["error", "drop", "cut-text"] = "drop"
    bad_media: Literal["error", "drop", "blank"] = "error"
    media_check: Literal["quick", "full"] = "quick"
    allow_outside_root: bool = False
    allow_urls: bool = False
    workers: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"train": [value]} if isinstance(value, str) else value


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
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    clip_norm: Positive | None = 1.0
    clip: Literal["together", "component"] = "together"
    length_pool: PositiveInt = 4
    evaluate_every: PositiveInt = 100
    snapshot_every: PositiveInt = 100
    snapshots_kept: PositiveInt = 2
    skipped_in_a_row: PositiveInt = 5
    threads: PositiveInt | None = None
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)


class Recipe(Part):
    """Everything about one run."""

    name: Annotated[str, Field(min_length=1)]
    seed: int = 0
    output: str | None = None
    model: Model
    components: Components = Components()
    data: Data
    training: Training
    coordination: Coordination = Coordination()
    evaluation: Evaluation = Evaluation()

    @property
    def folder(self) -> Path:
        """The run folder: `output`, or `runs/NAME`."""
        return Path(self.output) if self.output else Path("runs") / self.name

    @model_validator(mode="after")
    def _probe_fits_batch(self) -> Recipe:
        if (self.coordination.probe or 0) > self.training.batch_size:
            raise ValueError(
                f"coordination.probe ({self.coordination.probe}) is larger than training.batch_size "
                f"({self.training.batch_size}): the probe is a part of the batch"
            )
        return self

    @model_validator(mode="after")
    def _budgets_hold_the_longest_sample(self) -> Recipe:
        training, longest = self.training, self.data.max_tokens
        for key in ("batch_tokens", "micro_batch_tokens"):
            budget = getattr(training, key)
            if budget is not None and budget < longest:
                raise ValueError(
                    f"training.{key} ({budget}) is below data.max_tokens ({longest}): a sample of that length would "
                    "not fit; lower data.max_tokens, which says what becomes of longer ones (data.too_long)"
                )
        limit = training.micro_batch_tokens
        if limit is not None and training.pack_tokens is not None and training.pack_tokens > limit:
            raise ValueError(
                f"training.pack_tokens ({training.pack_tokens}) is above training.micro_batch_tokens ({limit}): a full "
                "row would not fit; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _regularizer_has_something_to_do(self) -> Recipe:
        regularizer = self.coordination.regularizer
        problems = self.coordination.regularizer_problems(self.training.steps, self.training.micro_batch_size)
        dropping = [name for name, dropout in self._dropouts.items() if dropout]
        if regularizer.weight and regularizer.reference != "probe" and dropping:
            problems.append(f"dropout would count as change; set {', '.join(f'{name}=0' for name in dropping)}")
        if problems:
            raise ValueError(f"coordination.regularizer: {'; '.join(problems)}")
        return self

    @property
    def _dropouts(self) -> dict[str, float]:
        """The dropout of the adapters that learn, by its key."""
        found = {} if self.components.llm.tune == "frozen" else {"model.llm": self.model.llm.adapters.dropout}
        for component, medium in COMPONENT_MEDIUM.items():
            encoder = self.model.encoders.by_medium.get(medium)
            if encoder is not None and getattr(self.components, component).tune != "frozen":
                found[f"model.encoders.{medium}"] = encoder.adapters.dropout
        return {f"{key}.adapters.dropout": dropout for key, dropout in found.items()}

    @model_validator(mode="after")
    def _quantized_base_stays_frozen(self) -> Recipe:
        if self.model.llm.quantize and self.components.llm.tune == "full":
            raise ValueError("components.llm.tune: a quantised base (model.llm.quantize) cannot be tuned in full")
        return self

    @model_validator(mode="after")
    def _components_exist(self) -> Recipe:
        for component, medium in COMPONENT_MEDIUM.items():
            if medium not in self.model.encoders.by_medium and getattr(self.components, component).tune != "frozen":
                raise ValueError(
                    f"components.{component}.tune is set, but the recipe names no {medium} encoder "
                    f"(model.encoders.{medium})"
                )
        return self

    def to_yaml(self) -> str:
        """Return the resolved recipe, every default written out."""
        return dump_yaml(self.model_dump(mode="json"))
