"""The recipe: one typed object that says everything about a run; the CLI and Python take the same one.

Unknown keys are refused with the nearest name, and all errors of a recipe are reported at once. The resolved
recipe (every default written out) is saved beside the result, so that a run can be repeated from its folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from cotune.errors import RecipeError, nearest
from cotune.plain_yaml import dump_yaml, load_yaml

Tune = Literal["adapters", "full", "lora", "frozen"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Part(BaseModel):
    """Base of every section: unknown keys are errors, values are checked on assignment too, text may be a number."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class AdapterSettings(Part):
    """Shape of the mixture-of-modality adapters (LaVIN, section 3.2)."""

    rank: PositiveInt = 8
    groups: PositiveInt = 2
    scale: float = 1.0
    dropout: ShareBelowOne = 0.0
    bias: bool = True
    placement: Literal["attention", "block"] = "attention"

    @model_validator(mode="after")
    def _groups_divide_rank(self) -> AdapterSettings:
        if self.rank % self.groups:
            raise ValueError(f"groups ({self.groups}) must divide rank ({self.rank})")
        return self


class Routing(Part):
    """How a modality chooses its expert: `hard` owns one, `soft` mixes by a router (LaVIN, equation 4)."""

    mode: Literal["hard", "soft", "soft-legacy"] = "hard"
    text: Literal["base", "trained"] = "base"
    temperature: Positive = 10.0
    experts: PositiveInt = 2


class LanguageModel(Part):
    """The frozen language model."""

    path: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    chat_template: str | None = None
    adapters: AdapterSettings = AdapterSettings()
    routing: Routing = Routing()


class Encoder(Part):
    """A frozen image encoder and which of its features become tokens.

    `taps` name the layers read, `grid` the side of the square they are pooled to (`grid` x `grid` tokens an image).
    `adapted_stages` says how many of a convolutional encoder's last stages get adapters; what lies in front of them
    stays frozen, and its output is computed once per picture.
    """

    kind: str
    path: str
    image_size: PositiveInt = 224
    taps: list[str] = Field(default_factory=lambda: ["last"])
    grid: PositiveInt = 2
    weights: Literal["pretrained", "random"] = "pretrained"
    adapters: AdapterSettings = AdapterSettings()
    adapted_stages: PositiveInt = 1


class Connector(Part):
    """The two-layer map from encoder features to the width of the language model."""

    hidden: PositiveInt = 128
    standardize: bool = True


class Model(Part):
    """Which models are joined, and how."""

    llm: LanguageModel
    encoders: dict[Literal["image"], Encoder] = Field(default_factory=dict)
    connector: Connector = Connector()


class ComponentSettings(Part):
    """How one component learns: what is trained in it and its peak learning rate."""

    tune: Tune
    rate: Positive = 1e-3


class VisionSettings(ComponentSettings):
    """The image encoder: frozen unless said otherwise."""

    tune: Tune = "frozen"


class ConnectorSettings(ComponentSettings):
    """The connector: new weights, so trained as a whole."""

    tune: Literal["full", "frozen"] = "full"


class LanguageModelSettings(ComponentSettings):
    """The language model: adapters unless said otherwise."""

    tune: Tune = "adapters"


class Components(Part):
    """Freezing and learning rates, by component."""

    vision: VisionSettings = VisionSettings()
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
    """One data set: a file or folder, who reads it, and how often it is drawn."""

    path: str
    reader: str | None = None
    media: str | None = None
    weight: Positive = 1.0
    limit: PositiveInt | None = None
    balance: Balance | None = None
    conversation: Conversation | None = None


class Data(Part):
    """What is learned from, chosen on and scored.

    `validation_share` holds that share of the training *images* (or samples without media) out of training.
    `blank_media` keeps the images out of the model's sight: the honest text-only baseline.
    """

    train: Annotated[list[Source], Field(min_length=1)]
    validation_share: ShareBelowOne = 0.1
    test: list[Source] = Field(default_factory=list)
    blank_media: bool = False
    max_tokens: PositiveInt = 2048
    bad_media: Literal["error", "drop"] = "error"


class Training(Part):
    """The optimiser's job: how long, how large, how fast."""

    steps: PositiveInt
    batch_size: PositiveInt = 16
    warmup_steps: Annotated[int, Field(ge=0)] = 15
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    decay_share: Share = 0.4
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    clip_norm: Positive | None = 1.0
    length_pool: PositiveInt = 4
    evaluate_every: PositiveInt = 100
    snapshot_every: PositiveInt = 100
    threads: PositiveInt | None = None


class Coordination(Part):
    """The rule that multiplies the components' rates while they learn."""

    rule: str = "constant"
    options: dict[str, Any] = Field(default_factory=dict)


class Evaluation(Part):
    """How answers are generated and scored."""

    task: str = "exact-match"
    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt = 16
    validation_limit: PositiveInt = 500
    limit: PositiveInt | None = None
    text_retention: bool = True


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
    def _encoder_for_media(self) -> Recipe:
        if "image" not in self.model.encoders and self.components.vision.tune != "frozen":
            raise ValueError("components.vision.tune is set, but the recipe names no image encoder (model.encoders)")
        return self

    def to_yaml(self) -> str:
        """Return the resolved recipe, every default written out."""
        return dump_yaml(self.model_dump(mode="json"))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a YAML file with `key=value` overrides applied.

    Raises:
        RecipeError: naming every unknown key (with the nearest known one) and every bad value.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read", [str(error)]) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML", [" ".join(str(error).split())]) from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe", ["the file must hold keys such as name, model, data, training"])
    return parse_recipe(content, overrides, where=str(path))


def parse_recipe(content: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Return the recipe a mapping describes, overrides applied; raises RecipeError with every problem at once."""
    content = deepcopy(content)
    problems = [problem for override in overrides if (problem := _apply(content, override))]
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors()]
    if problems:
        raise RecipeError(where, problems)
    return recipe


def _apply(content: dict[str, Any], override: str) -> str | None:
    """Set one dotted `key=value` in place; return what is wrong with it, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"'{override}': an override is written key=value, for example training.steps=500"
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        return f"'{override}': the value is not YAML; quote it"
    *path, last = key.split(".")
    target: Any = content
    for name in path:
        target = _descend(target, name)
        if target is None:
            return f"'{override}': '{name}' in '{key}' is not a section of the recipe"
    if isinstance(target, list) and not (last.isdigit() and int(last) < len(target)):
        return f"'{override}': '{last}' is not an index of a list with {len(target)} entries"
    if not isinstance(target, dict | list):
        return f"'{override}': the key before '{last}' holds a value, not a section"
    if isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    return None


def _descend(target: Any, name: str) -> Any:
    """Return the child of a section or list, making a missing section; None when there is none."""
    if isinstance(target, list):
        return target[int(name)] if name.isdigit() and int(name) < len(target) else None
    if not isinstance(target, dict):
        return None
    if target.get(name) is None:
        target[name] = {}
    return target[name]


def _describe(item: Any) -> str:
    """Return one validation error in plain words, with the nearest known key for an unknown one."""
    location = ".".join(str(step) for step in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1])
        return f"{location}: unknown key{nearest(str(item['loc'][-1]), known)}"
    if item["loc"][-1:] == ("[key]",) and item["type"] == "literal_error":
        known = re.findall("'([^']+)'", item["ctx"]["expected"])
        return f"{location.removesuffix('.[key]')}: unknown key{nearest(str(item['input']), known)}"
    if item["type"] == "missing":
        return f"{location}: required, but missing"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict | list | BaseModel) else f" (got {item['input']!r})"
    return f"{location}: {message}{shown}" if location else f"{message}{shown}"


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Return the known keys of the section at a location of the recipe."""
    section: Any = Recipe
    for step in location:
        if isinstance(step, str) and step in section.model_fields:
            section = _section_type(section.model_fields[step].annotation)
    return list(section.model_fields)


def _section_type(annotation: Any) -> Any:
    """Return the section class inside an annotation such as `Encoder | None` or `list[Source]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    inner = [found for argument in get_args(annotation) if (found := _section_type(argument)) is not None]
    return next((found for found in inner if isinstance(found, type) and issubclass(found, BaseModel)), None)
