"""The recipe: one typed object that says everything about a run; the CLI and Python take the same one.

Unknown keys are refused with the nearest name, and all errors of a recipe are reported at once (`reading`). The
resolved recipe (every default written out) is saved beside the result, so that a run can be repeated from its folder.
"""

from __future__ import annotations

from cotune.recipe.data import Balance, Conversation, Data, Source
from cotune.recipe.model import (
    COMPONENT_MEDIUM,
    AdapterSettings,
    AudioEncoder,
    Encoder,
    EncoderAdapterSettings,
    ImageEncoder,
    LanguageModel,
    Legacy,
    Routing,
    Tune,
    VisionRouter,
)
from cotune.recipe.training import Training
from cotune.recipe.whole import Recipe

__all__ = [
    "COMPONENT_MEDIUM",
    "AdapterSettings",
    "AudioEncoder",
    "Balance",
    "Conversation",
    "Data",
    "Encoder",
    "EncoderAdapterSettings",
    "ImageEncoder",
    "LanguageModel",
    "Legacy",
    "Recipe",
    "Routing",
    "Source",
    "Training",
    "Tune",
    "VisionRouter",
]
