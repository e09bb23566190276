"""Attach adapters to any transformers model by a forward pre-hook on each layer's self-attention.

The hook rewrites the hidden states the attention module receives; `sites` says where and why there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cotune.adapters.body import Body
from cotune.adapters.hook import rewrite_input
from cotune.adapters.inline import InlineRoute, RoutedInputs, check_segments, lead
from cotune.adapters.isolation import Isolation, positions_in_segments
from cotune.adapters.mm_adapter import MMAdapter, MMAdapterConfig
from cotune.adapters.routing import ContentRoute, ContentSource, Modalities, ModalityTokens, Route, hard_table
from cotune.adapters.separation import Separation, measure_separation
from cotune.adapters.sites import Site, decoder, find_sites, named_sites, text_config
from cotune.errors import ModelError

__all__ = ["AdapterHandle", "Site", "attach", "decoder", "find_sites", "text_config"]


class AdapterHandle(nn.Module):
    """The adapters attached to one model: their parameters, their routing, and the way to take them off.

    `handle.parameters()` are the trainable ones. Around every call of the model a route must be set, by
    `modality` (one for the whole batch), `rows` (one per sample), or `inputs` (which also packs samples and places
    modality tokens); under content routing none, the inputs route themselves.
    """

    def __init__(self, llm: nn.Module, config: MMAdapterConfig, modalities: Sequence[str]) -> None:
        super().__init__()
        self.config, self.modalities = config, Modalities(modalities)
        self._body = Body(llm)
        self.sites = named_sites(llm, config.sites) if config.sites else find_sites(llm, config.placement)
        soft = config.routing in ("soft", "soft-legacy")
        self.hard_table = hard_table(self.modalities, config.text)
        if config.routing == "content":
            self.hard_table = torch.ones(len(self.modalities), 1, device="cpu")
        experts = self.hard_table.shape[1] if config.routing == "hard" else config.experts
        self.adapters = nn.ModuleList(
            MMAdapter(site.width, config, experts=experts, routed=soft or self.routed_by_content) for site in self.sites
        )
        self.tokens = None
        if soft:
            self.tokens = ModalityTokens(
                self.modalities,
                self._body.width,
                experts=experts,
                temperature=config.temperature,
                apart=config.routing == "soft",
            )
        self._isolation: Isolation | None = None
        self._cached: tuple[Tensor, list[Tensor]] | None = None
        self._hooks: list[RemovableHandle] = [
            site.module.register_forward_pre_hook(rewrite_input(site, adapter), with_kwargs=True)
            for site, adapter in zip(self.sites, self.site_adapters, strict=True)
        ]
        self.to(next(llm.parameters()).device)
        if self.routed_by_content:
            self.read_content_from(config.content_from)
        elif config.routing == "content":
            self._set([Route(self.hard_table[:1])] * len(self.adapters))

    @property
    def site_adapters(self) -> list[MMAdapter]:
        """The adapters in the order of `sites`."""
        return cast("list[MMAdapter]", list(self.adapters))

    @property
    def routed_by_content(self) -> bool:
        """Whether every input chooses its experts itself; a single expert leaves nothing to choose."""
        return self.config.routing == "content" and self.config.experts > 1

    def read_content_from(self, source: ContentSource) -> None:
        """Let the routers read something else of every input from now on: see ContentRoute.

        Raises:
            ModelError: unless the adapters are routed by content among several experts.
        """
        if not self.routed_by_content:
            raise ModelError(f"routers that read '{source}': only content routing among two or more experts has any")
        route = ContentRoute(source, self.config.temperature)
        self._set([route] * len(self.adapters))

    def detach(self) -> None:
        """Take every hook off: the model is its plain self again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def tables(self) -> list[Tensor]:
        """Return each site's routing weights, [modalities, experts] per site; kept between calls without gradient.

        Raises:
            ModelError: under content routing, where the weights depend on the input.
        """
        if self.routed_by_content:
            raise ModelError("content routing has no table: the weights depend on the input, not on its modality")
        if self.tokens is None:
            return [self.hard_table] * len(self.adapters)
        if torch.is_grad_enabled() or self.training:
            return self._token_tables()
        # Compared by value: fused optimisers change parameters without raising their version counter.
        values = nn.utils.parameters_to_vector(self.parameters())
        if self._cached is None or not self._cached[0].equal(values):
            self._cached = (values, self._token_tables())
        return self._cached[1]

    def leaves_alone(self, name: str) -> bool:
        """Return whether the language model computes this modality as if it had no adapters."""
        fixed = self.tokens is None and not self.routed_by_content
        return fixed and not bool(self.hard_table[self.modalities.index(name)].any())

    def _token_tables(self) -> list[Tensor]:
        assert self.tokens is not None
        route = self.tokens.token_pass()
        with self._routed([route] * len(self.adapters)):
            self._body.run(self._body.embeddings(self.tokens.embedding).unsqueeze(1))  # [modalities, 1, width]
        return [route.tables[cast("nn.Linear", adapter.router)] for adapter in self.site_adapters]

    def rows(self, names: Sequence[str]) -> None:
        """Route each sample of the next batches by its modality; one shared row when all are the same.

        The weights come from the table. Under content routing the names change nothing.

        Raises:
            ModelError: for an unknown modality, with the nearest name.
        """
        distinct = list(dict.fromkeys(names))
        index = torch.tensor([self.modalities.index(name) for name in (distinct if len(distinct) == 1 else names)])
        self._set_rows(index)

    def rows_packed(self, names: Sequence[Sequence[str]], segments: Tensor) -> None:
        """Route each token of the next batches by the modality of the sample it belongs to, from the table.

        `names` are the modalities of each row's samples, `segments` [batch, tokens] the sample each token belongs to:
        0, 1 ... in unbroken runs, -1 for padding. `inputs` also keeps the samples from seeing each other.

        Raises:
            ModelError: for an unknown modality, or segments that do not fit the names.
        """
        check_segments(segments, [len(row) for row in names], segments.shape)
        self._set_rows(self._index(names, segments.device).gather(1, segments.clamp_min(0)), self._masked(segments))

    def _index(self, names: Sequence[Sequence[str]], device: torch.device) -> Tensor:
        """Return the table row of each sample, [batch, samples], filled up with zeros."""
        rows = [torch.tensor([self.modalities.index(name) for name in row], dtype=torch.long) for row in names]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)

    def _set_rows(self, index: Tensor, segments: Tensor | None = None) -> None:
        """Route by the table's rows `index`, one per sample or one per token."""
        if self.routed_by_content:
            return
        device = self.site_adapters[0].down.device
        rows = [table[index.to(table.device)] for table in self.tables()]
        identity = self.tokens is None and not bool(rows[0].any())
        self._set([Route(row.to(device), identity=identity, segments=segments) for row in rows])

    def inputs(
        self, embeddings: Tensor, names: Sequence[str | Sequence[str]], segments: Tensor | None = None
    ) -> RoutedInputs:
        """Route the next call of the decoder and return what to call it with; for whole sequences, without a cache.

        `embeddings` is [batch, tokens, width]; `names` has the modality of each row or, for packed rows, those of its
        samples; `segments` [batch, tokens] then says which sample each token belongs to: 0, 1 ... in unbroken runs,
        -1 for padding, on whichever side. With `weights="inline"` the modality tokens come to stand in front.

            inputs = handle.inputs(embeddings, ["text", "image"])
            hidden = inputs.keep(decoder(llm)(**inputs.arguments).last_hidden_state)

        Raises:
            ModelError: for an unknown modality, segments that do not fit, or a model that cannot keep the sequences
                in a row apart (its state runs through the row, or its attention kernel takes no such mask).
        """
        samples = [[row] if isinstance(row, str) else list(row) for row in names]
        if segments is None and any(len(row) != 1 for row in samples):
            raise ModelError("rows of several samples need `segments`: which sample does each token belong to?")
        if segments is None:
            marks = torch.zeros(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        else:
            check_segments(segments, [len(row) for row in samples], embeddings.shape[:2])
            marks = segments.to(embeddings.device)
        if self.config.weights == "inline" and self.tokens is not None:
            return self._inline(embeddings, samples, marks)
        if segments is None:
            self.rows([row[0] for row in samples])
            return RoutedInputs(embeddings)
        self.rows_packed(samples, marks)
        return RoutedInputs(embeddings, self._positions(marks))

    def _inline(self, embeddings: Tensor, samples: list[list[str]], marks: Tensor) -> RoutedInputs:
        assert self.tokens is not None
        index = self._index(samples, embeddings.device)  # [batch, samples]
        leading = index.shape[1]
        tokens = self.tokens.embedding[index].to(embeddings.dtype)  # [batch, samples, width]
        segments = lead(marks, leading)  # [batch, leading + tokens]
        own = torch.arange(leading, device=marks.device).expand_as(index)
        offsets = None if self.tokens.offsets is None else self.tokens.offsets[index]
        route = InlineRoute(
            torch.cat([own, marks.clamp_min(0)], dim=1),
            leading,
            self.tokens.temperature,
            offsets,
            self._masked(segments),
        )
        self._set([route] * len(self.adapters))
        return RoutedInputs(torch.cat([tokens, embeddings], dim=1), self._positions(segments), leading)

    def _positions(self, segments: Tensor) -> Tensor | None:
        return positions_in_segments(segments) if self._body.takes_positions else None

    def _masked(self, segments: Tensor) -> Tensor | None:
        """Return the segments where this model's attention masks must be told of them; finds that out once."""
        if self._isolation is None:
            self._isolation = self._body.isolation(self._run_unadapted)
        return segments if self._isolation == "mask" else None

    def _run_unadapted(self, embeddings: Tensor, positions: Tensor | None, segments: Tensor | None) -> Tensor:
        untouched = Route(torch.empty(1, 0), identity=True, segments=segments)
        with self._routed([untouched] * len(self.adapters)):
            return self._body.run(embeddings, positions)

    def _set(self, routes: Sequence[Route | None]) -> None:
        for adapter, route in zip(self.site_adapters, routes, strict=True):
            adapter.route = route

    @contextmanager
    def _routed(self, routes: Sequence[Route | None]) -> Iterator[None]:
        before = [adapter.route for adapter in self.site_adapters]
        self._set(routes)
        try:
            yield
        finally:
            self._set(before)

    @contextmanager
    def kept_routes(self) -> Iterator[None]:
        """Route as before again when the block is left, whatever is routed inside of it."""
        with self._routed([adapter.route for adapter in self.site_adapters]):
            yield

    @contextmanager
    def modality(self, name: str) -> Iterator[AdapterHandle]:
        """Route everything inside the block by one modality, from the table.

        With gradient checkpointing `backward` runs the layers again, so it belongs inside the block too.
        """
        with self.kept_routes():
            self.rows([name])
            yield self

    @torch.no_grad()
    def separation(self) -> Separation:
        """Return how far the experts have parted, over all sites and at each, with a verdict in one line."""
        tables = None if self.routed_by_content else self.tables()
        return measure_separation([site.name for site in self.sites], self.site_adapters, tables)


# The last handle of every model, for those who hold the model only. Neither keeps the other alive.
attached: WeakKeyDictionary[nn.Module, ref[AdapterHandle]] = WeakKeyDictionary()


def attach(llm: nn.Module, config: MMAdapterConfig, modalities: Sequence[str]) -> AdapterHandle:
    """Return the handle of adapters attached to every layer of `llm`, whose own parameters are frozen.

    Works on any transformers model whose layers hold a self-attention, decoder or encoder, also one built on the meta
    device. The model's output is unchanged until the adapters have been trained.

    Raises:
        ModelError: when the layers or their attention modules cannot be found.
    """
    llm.requires_grad_(False)
    handle = AdapterHandle(llm, config, modalities)
    attached[llm] = ref(handle)
    return handle
