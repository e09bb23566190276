"""The routing weights of a run in its trace: which expert answers for which modality, layer by layer."""

from __future__ import annotations

import torch

from cotune.model.multimodal_lm import MultimodalLM
from cotune.trace import Trace

_PLACES = 4


@torch.no_grad()
def record_routing(model: MultimodalLM, trace: Trace, step: int) -> None:
    """Write the language model's tables as event `routing`; nothing without adapters, or where inputs decide.

    `weights` holds [modalities, experts] for each site, `modalities` the names of the rows. All processes must call
    it together: with soft routing the tables come from a pass through the model.
    """
    handle = model.adapters
    if handle is None or handle.routed_by_content:
        return
    was_training = model.training
    model.eval()  # dropout would use up random numbers, which the run must not miss
    tables = [[[round(value, _PLACES) for value in row] for row in table.tolist()] for table in handle.tables()]
    model.train(was_training)
    weights = dict(zip((site.name for site in handle.sites), tables, strict=True))
    trace.write("routing", step, component="llm", modalities=list(handle.modalities.names), weights=weights)
