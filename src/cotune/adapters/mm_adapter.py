"""The mixture-of-modality adapter: a linear bottleneck whose experts are mixed by the sample's modality.

    y = x + s * sum_e w_e (B_e h + b_e),   h = dropout(A x + a)          (LaVIN, section 3.2, equations 3-4)

There is no activation anywhere, so for fixed weights w the adapter is an affine map and can be folded into the
linear layer behind it. B_e is grouped (block-diagonal): output block g sees hidden block g only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cotune.adapters.routing import ContentSource, Route
from cotune.errors import ModelError


@dataclass(frozen=True)
class MMAdapterConfig:
    """Shape and routing of the adapters.

    `routing="content"` is for encoders: each input's weights are read off the input itself, from its class token
    (`content_from="first"`) or, where an encoder has none, from the mean over its tokens (`"mean"`).
    `weights` says where soft routing reads its modality tokens: in a pass of their own (`"table"`) or in front of the
    rows themselves (`"inline"`, for sharding that allows only one pass); hard routing has none. `sites` names the
    modules to adapt by patterns (`model.layers.*.mixer`) where the architecture is not recognised, and replaces
    `placement`.

    Raises:
        ValueError: when `groups` does not divide `rank`, or a number is out of range.
    """

    rank: int = 8
    groups: int = 2
    scale: float = 1.0
    dropout: float = 0.0
    bias: bool = True
    placement: Literal["attention", "block"] = "attention"
    routing: Literal["hard", "soft", "soft-legacy", "content"] = "hard"
    text: Literal["base", "trained"] = "base"
    temperature: float = 10.0
    experts: int = 2
    content_from: ContentSource = "first"
    weights: Literal["table", "inline"] = "table"
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or self.groups < 1 or self.rank % self.groups:
            raise ValueError(f"groups ({self.groups}) must divide rank ({self.rank}), both at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.temperature <= 0.0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, got {self.experts}")


class Mixture(NamedTuple):
    """What a route makes of an adapter's experts, whose bottleneck ends with a 1 that their bias is multiplied by.

    With one row of weights they are mixed, and `weights` is None. With several, `weights` [batch, tokens, experts, 1]
    scale each expert's own bottleneck, and `up` holds the experts side by side.
    """

    down: Tensor  # [rank, width]
    down_bias: Tensor | None
    up: Tensor  # [width, rank + 1], or [width, experts * (rank + 1)] where there are weights
    weights: Tensor | None


class KeptMixture(NamedTuple):
    """A mixture laid out for the many small calls of decoding: x + up (start + down x).

    On a CPU it is in float32 at least, in which products of a few tokens cost a fifth of what they cost in 16 bits.
    What comes out is rounded once, to the input's precision.
    """

    route: Route
    dtype: torch.dtype  # of the inputs it is for
    down: Tensor  # [rank + 1, width], the last row zero
    start: Tensor  # [rank + 1], the bias and the 1
    up: Tensor  # like a mixture's
    weights: Tensor | None

    @classmethod
    def of(cls, mixture: Mixture, route: Route, dtype: torch.dtype) -> KeptMixture:
        """Return the mixture that `route` gives, to be kept for inputs of a precision."""
        bias = mixture.down.new_zeros(len(mixture.down)) if mixture.down_bias is None else mixture.down_bias
        down, start = functional.pad(mixture.down, (0, 0, 0, 1)), functional.pad(bias, (0, 1), value=1.0)
        return cls(route, dtype, down, start, mixture.up, mixture.weights)

    def added_to(self, hidden: Tensor) -> Tensor:
        """Return `hidden`, [batch, tokens, width] or [batch * tokens, width], with what the experts add to it."""
        wide = hidden.to(self.down.dtype)
        if self.weights is not None:
            rows = wide.view(len(self.weights), -1, wide.shape[-1]) if wide.dim() == 2 else wide
            low = functional.linear(rows, self.down, self.start).unsqueeze(2) * self.weights
            changed = rows + functional.linear(low.flatten(2), self.up)
        elif hidden.numel() == hidden.shape[-1]:
            # A product of matrices would wake threads, which takes longer than so small a product.
            row = wide.reshape(-1)
            changed = torch.addmv(row, self.up, torch.addmv(self.start, self.down, row))
        else:
            rows = wide.flatten(0, -2)  # [batch * tokens, width]
            changed = torch.addmm(rows, torch.addmm(self.start, rows, self.down.t()), self.up.t())
        return changed.to(hidden.dtype).view(hidden.shape)


class MMAdapter(nn.Module):
    """One adapter site; the identity when new, because every B_e and b_e starts at zero.

    `down` is A, `down_bias` a, `up` the grouped B_e and `up_bias` b_e. Parameters stay in their own precision
    (fp32 when trained) and are cast to the input's for the product.
    """

    def __init__(self, width: int, config: MMAdapterConfig, *, experts: int, routed: bool = False) -> None:
        super().__init__()
        if width % config.groups:
            raise ModelError(f"groups ({config.groups}) must divide the model's width ({width})")
        self.width, self.experts = width, experts
        self.rank, self.groups, self.scale = config.rank, config.groups, config.scale
        self.down = nn.Parameter(torch.empty(config.rank, width))  # [rank, width]
        self.up = nn.Parameter(torch.zeros(experts, width, config.rank // config.groups))  # grouped, see expanded_up
        self.down_bias = nn.Parameter(torch.zeros(config.rank)) if config.bias else None
        self.up_bias = nn.Parameter(torch.zeros(experts, width)) if config.bias else None
        self.dropout = nn.Dropout(config.dropout)
        self.router = nn.Linear(width, experts) if routed else None
        self.route: Route | None = None
        self.keeps_mixture = False
        self._kept: KeptMixture | None = None
        nn.init.xavier_uniform_(self.down)

    def expanded_up(self) -> Tensor:
        """Return the experts' up-projections as dense matrices, [experts, width, rank], zero outside the groups."""
        return self._dense(self.up)

    def _dense(self, grouped: Tensor) -> Tensor:
        """Return up-projections [.., width, rank / groups] as dense matrices [.., width, rank]."""
        blocks = torch.eye(self.groups, dtype=grouped.dtype, device=grouped.device)[:, None, :, None]
        *experts, _, columns = grouped.shape
        by_group = grouped.view(*experts, self.groups, -1, 1, columns)
        dense: Tensor = by_group * blocks  # [.., groups, rows, groups, columns]
        return dense.reshape(*grouped.shape[:-1], self.rank)

    def mixed(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return s * sum_e w_e B_e [width, rank] and s * sum_e w_e b_e [width] for one row of weights [experts]."""
        weights = self.scale * weights.to(self.up)
        up = self._dense((weights @ self.up.flatten(1)).view(self.up.shape[1:]))
        return up, None if self.up_bias is None else weights @ self.up_bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the adapted hidden states; `hidden` is [batch, tokens, width], the route set beforehand.

        Some layers (OPT's) hand their MLP [batch * tokens, width]; it comes back in the same shape.

        Raises:
            RuntimeError: when no route was set: which expert would answer is then unknown.
            ModelError: when the input has not the adapter's width, or not as many samples as were routed.
        """
        kept = self._kept
        if kept is not None and kept.route is self.route and kept.dtype == hidden.dtype:
            return kept.added_to(hidden)
        if self.route is None:
            raise RuntimeError("an adapter ran without a route; use `with handle.modality(...)` around the model call")
        if hidden.shape[-1] != self.width:
            raise ModelError(f"an adapter of width {self.width} got an input of shape {list(hidden.shape)}")
        batch = self.route.batch
        if batch is None:
            return self._adapt(hidden, self.route)
        if hidden.dim() == 2 and len(hidden) % batch == 0:
            return self._adapt(hidden.view(batch, -1, self.width), self.route).flatten(0, 1)
        if hidden.shape[0] != batch:
            raise ModelError(
                f"{batch} samples were routed, but the model got {hidden.shape[0]}: route every batch anew"
            )
        return self._adapt(hidden, self.route)

    def _adapt(self, hidden: Tensor, route: Route) -> Tensor:
        weights = route.weights(hidden, self.router)
        if weights is None:
            return hidden
        if self.keeps_mixture and route.fixed and not torch.is_grad_enabled():
            wide = hidden.dtype if hidden.is_cuda else torch.promote_types(hidden.dtype, torch.float32)
            self._kept = KeptMixture.of(self._mixture(weights, wide), route, hidden.dtype)
            return self._kept.added_to(hidden)
        return self._mixed_in(hidden, self._mixture(weights, hidden.dtype))

    def keep_mixture(self, keep: bool) -> None:
        """Keep from now on what the route in force makes of the experts, or make it anew at every call.

        Kept, it is right for as long as no parameter changes, and carries no gradient.
        """
        self.keeps_mixture, self._kept = keep, None

    def _mixture(self, weights: Tensor, dtype: torch.dtype) -> Mixture:
        """Return what is made of the experts with weights [1 or batch, experts] or [batch, tokens, experts]."""
        down, down_bias = self.down.to(dtype), None if self.down_bias is None else self.down_bias.to(dtype)
        if weights.dim() == 2 and len(weights) == 1:
            up, bias = self.mixed(weights[0])
            bias = up.new_zeros(self.width) if bias is None else bias
            return Mixture(down, down_bias, torch.column_stack([up, bias]).to(dtype), None)
        weights = self.scale * weights.to(self.up)
        weights = weights.unsqueeze(1) if weights.dim() == 2 else weights  # [batch, tokens, experts], either may be 1
        biases = self.up.new_zeros(self.experts, self.width) if self.up_bias is None else self.up_bias
        experts = torch.cat([self.expanded_up(), biases.unsqueeze(2)], 2)  # [experts, width, rank + 1]
        up = experts.permute(1, 0, 2).flatten(1)
        return Mixture(down, down_bias, up.to(dtype), weights.to(dtype).unsqueeze(3))

    def _mixed_in(self, hidden: Tensor, mixture: Mixture) -> Tensor:
        """Return `hidden` [batch, tokens, width] with what the experts add to it."""
        low: Tensor = self.dropout(functional.linear(hidden, mixture.down, mixture.down_bias))  # [batch, tokens, rank]
        low = functional.pad(low, (0, 1), value=1.0)
        if mixture.weights is not None:
            # One product for all experts: their bottlenecks, weighted, stand side by side.
            low = (low.unsqueeze(2) * mixture.weights).flatten(2)
        return hidden + functional.linear(low, mixture.up)


@contextmanager
def kept_mixtures(adapters: Iterable[MMAdapter]) -> Iterator[None]:
    """Let adapters keep their mixtures inside the block: for the many small calls of decoding, whose routes hold."""
    adapters = list(adapters)
    for adapter in adapters:
        adapter.keep_mixture(True)
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.keep_mixture(False)
