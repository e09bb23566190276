"""The joined model: features spliced into the embeddings, routed adapters, logits only where tokens carry loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cotune.adapters.attach import AdapterHandle
from cotune.adapters.inline import RoutedInputs
from cotune.adapters.isolation import positions_in_segments
from cotune.adapters.mm_adapter import kept_mixtures
from cotune.adapters.sites import decoder, text_config
from cotune.data.collate import Batch, Packing
from cotune.data.template import IGNORED, Template
from cotune.model.connector import Connector
from cotune.model.decoding import decode_greedily
from cotune.model.encoders import FeatureEncoder
from cotune.model.growing_text import GrowingText
from cotune.model.kept_prefix import KeptPrefix
from cotune.model.packed_rows import check_positions_isolate
from cotune.model.tuning import checkpointed_layers
from cotune.recipe import COMPONENT_MEDIUM


class MultimodalLM(nn.Module):
    """A frozen language model with encoders by medium, a connector for each, and adapters.

    `adapters` is None when the language model is frozen or tuned in another way; a text-only model has no encoders.
    """

    def __init__(
        self,
        llm: Any,
        template: Template,
        encoders: Mapping[str, FeatureEncoder] | None = None,
        connectors: Mapping[str, Connector] | None = None,
        adapters: AdapterHandle | None = None,
    ) -> None:
        super().__init__()
        self.llm, self.template, self.adapters = llm, template, adapters
        # Positions as the original LaVIN code had them while it generated; for scoring its released adapters only.
        self.off_by_one_positions = False
        # The recipe's values that the trained tensors only mean something under; a checkpoint keeps and compares them.
        self.settings: dict[str, Any] = {}
        # The base models' fingerprints, once a sharded model can no longer be asked for them.
        self.known_bases: dict[str, str] | None = None
        # Makes a chosen token the same on all processes that compute an answer together.
        self.agree: Callable[[Tensor], Tensor] | None = None
        self._checkpointed: list[nn.Module] = []
        self._rows_can_be_shared = False
        self.encoders = nn.ModuleDict(encoders or {})
        self.connectors = nn.ModuleDict(connectors or {})

    def encoder(self, medium: str) -> FeatureEncoder:
        """Return the encoder of a medium; raises KeyError when the model has none."""
        return cast("FeatureEncoder", self.encoders[medium])

    def connector(self, medium: str) -> Connector:
        """Return the connector behind the encoder of a medium; raises KeyError when the model has none."""
        return cast("Connector", self.connectors[medium])

    def component_modules(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each component, by the names everything speaks in: vision, audio, connector, llm."""
        parts: dict[str, list[nn.Module]] = {
            component: [self.encoders[medium]] if medium in self.encoders else []
            for component, medium in COMPONENT_MEDIUM.items()
        }
        parts["connector"] = list(self.connectors.values())
        parts["llm"] = [self.llm, *([self.adapters] if self.adapters is not None else [])]
        return {name: modules for name, modules in parts.items() if modules}

    @property
    def device(self) -> torch.device:
        """Where the language model lives."""
        return self.llm.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def output_is_frozen(self) -> bool:
        """Whether nothing between the last hidden states and the logits learns."""
        return not any(parameter.requires_grad for parameter in self.llm.get_output_embeddings().parameters())

    @property
    def vocabulary(self) -> int:
        """How many logits a token has."""
        return int(text_config(self.llm).vocab_size)

    def train(self, mode: bool = True) -> MultimodalLM:
        """Set the training mode; the frozen language model itself stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.llm.parameters()):
            self.llm.eval()
        for layer in self._checkpointed:
            layer.training = mode  # transformers recomputes layers in training mode only
        return self

    def checkpoint_gradients(self) -> None:
        """Keep no activations inside the decoder's layers: a third more computing for a fraction of the memory."""
        self._checkpointed = checkpointed_layers(self.llm)

    def embed(self, batch: Batch) -> Tensor:
        """Return input embeddings [batch, tokens, width] with every medium's feature tokens in their places."""
        embeddings: Tensor = self.llm.get_input_embeddings()(batch.tokens)
        for medium, found in batch.features.items():
            tokens = self.connector(medium)(self.encoder(medium).features(found.rows))  # [media, tokens, width]
            flat = tokens.flatten(0, 1).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter(found.mask.unsqueeze(-1), flat)
        return embeddings

    def route(self, modalities: Sequence[str]) -> None:
        """Route the rows of the next model call by their modalities; nothing to do without adapters."""
        if self.adapters is not None:
            self.adapters.rows(modalities)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits [loss tokens, vocabulary] in fp32 and their targets [loss tokens], row by row.

        The output layer runs on the tokens that carry loss only: on whole sequences it costs a quarter of the step
        and most of its memory.
        """
        hidden, targets = self.hidden_of_loss(batch)
        return self.logits(hidden), targets

    def hidden_of_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the last hidden states [loss tokens, width] where tokens carry loss, and their targets, row by row."""
        hidden = self._hidden(self.embed(batch), batch)
        learned = batch.targets != IGNORED  # [batch, tokens]
        return hidden[learned], batch.targets[learned]

    def _hidden(self, embeddings: Tensor, batch: Batch) -> Tensor:
        """Return the decoder's last hidden states [batch, tokens, width], each sample routed by its modality."""
        inputs = self._packed(embeddings, batch.packing) if batch.packing else self._unpacked(embeddings, batch)
        return inputs.keep(decoder(self.llm)(**inputs.arguments).last_hidden_state)

    def _unpacked(self, embeddings: Tensor, batch: Batch) -> RoutedInputs:
        return RoutedInputs(embeddings) if self.adapters is None else self.adapters.inputs(embeddings, batch.modalities)

    def _packed(self, embeddings: Tensor, packing: Packing) -> RoutedInputs:
        if self.adapters is not None:
            return self.adapters.inputs(embeddings, packing.modalities, packing.segments)
        if not self._rows_can_be_shared:
            check_positions_isolate(self.llm)
            self._rows_can_be_shared = True
        return RoutedInputs(embeddings, positions_in_segments(packing.segments))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return fp32 logits for hidden states [n, width], with the scaling and capping some models apply."""
        logits: Tensor = self.llm.get_output_embeddings()(hidden).float()
        config = text_config(self.llm)
        for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
            logits = _scaled(logits, float(getattr(config, name, None) or 1.0))
        scaling = float(getattr(config, "logits_scaling", None) or 1.0)
        # Granite divides by what HyperCLOVA X multiplies by.
        logits = _scaled(logits, scaling if config.model_type == "hyperclovax" else 1 / scaling)
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        return cap * torch.tanh(logits / cap) if cap else logits

    def generate(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        """Return the new tokens of each row of a left-padded batch, greedily chosen, cut before the stop token."""
        steps = list(self.decode(batch, max_new_tokens))
        return [self._until_stop([step[row] for step in steps]) for row in range(len(batch.lengths))]

    @torch.inference_mode()
    def decode(self, batch: Batch, max_new_tokens: int, cache: Any = None) -> Iterator[list[int]]:
        """Yield one token per row and step; the rows' routes hold for the whole answer.

        A `cache` of earlier positions is gone on from: only the columns of the batch behind them are computed.
        """
        self.route(batch.modalities)
        past = 0 if cache is None else int(cache.get_seq_length())
        with kept_mixtures([] if self.adapters is None else self.adapters.site_adapters):
            yield from decode_greedily(
                decoder(self.llm),
                self.logits,
                self.llm.get_input_embeddings(),
                self.embed(batch)[:, past:],
                torch.tensor(batch.lengths, device=batch.tokens.device) - past,
                stop_ids=self.template.stop_ids,
                max_new_tokens=max_new_tokens,
                cache=cache,
                off_by_one=self.off_by_one_positions,
                agree=self.agree,
            )

    def _until_stop(self, tokens: list[int]) -> list[int]:
        stop = next((place for place, token in enumerate(tokens) if token in self.template.stop_ids), len(tokens))
        return tokens[:stop]

    def stream(self, batch: Batch, max_new_tokens: int, kept: KeptPrefix | None = None) -> Iterator[str]:
        """Yield the answer to a batch of one as text, piece by piece; `kept` is the conversation's computed past."""
        text = GrowingText(self.template.tokenizer, self.template.stop_ids)
        for step in self.decode(batch, max_new_tokens, None if kept is None else kept.cache):
            if kept is not None:
                kept.add(step[0])
            if piece := text.add(step[0]):
                yield piece
        if piece := text.finish():  # a character that never was completed
            yield piece


def _scaled(logits: Tensor, scale: float) -> Tensor:
    """Return logits times a scale; untouched by a scale of 1, which would still copy the largest tensor of a step."""
    return logits if scale == 1.0 else logits * scale
