"""Models whose cache is more than keys and values are refused before anybody asks them."""

from __future__ import annotations

import pytest

from cotune.data.template import Template
from cotune.errors import ServeError
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.cache_check import check_rows_can_share
from tests.decoders import FAMILIES, tiny_decoder
from tests.tiny import save_tokenizer

STATE_SPACE = {"falcon_h1"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_keys_and_values_can_share_and_state_spaces_are_refused(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = save_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model = MultimodalLM(tiny_decoder(family), Template(tokenizer, {}))
    if family in STATE_SPACE:
        with pytest.raises(ServeError, match=r"FalconH1.*cotune chat"):
            check_rows_can_share(model)
    else:
        check_rows_can_share(model)
