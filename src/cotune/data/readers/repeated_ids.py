"""Ids that a format repeats: made unique and counted, where they name the picture and not the sample."""

from __future__ import annotations

from dataclasses import replace

from cotune.messages import Sample

IDS_REPEATED = "samples with a repeated id: #2, #3 ... was added"


def numbered(sample: Sample, times: int) -> Sample:
    """Return the sample whose id was used for the `times`-th time, told apart from the others by `#times`."""
    return replace(sample, id=f"{sample.id}#{times}") if times > 1 else sample
