"""The recipe's sections on the models: which are joined, how each learns, and at what rate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from cotune.messages import AUDIO, IMAGE
from cotune.recipe.section import Part, Positive, ShareBelowOne

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
    """The frozen language model; `shape` is what its config.json holds, for `cotune estimate` without a download.

    `compile`: its norms and gated layers are compiled by PyTorch, which takes some seconds once.
    """

    path: str
    shape: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    quantize: Literal["nf4", "int8"] | None = None
    compile: bool = False
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
