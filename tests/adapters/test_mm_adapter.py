"""The adapter against a second implementation from the formula, and its promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cotune.adapters import MMAdapter, MMAdapterConfig
from cotune.adapters.mm_adapter import kept_mixtures
from cotune.adapters.routing import ContentRoute, Route
from cotune.errors import ModelError
from tests.adapters.naive import block_diagonal, naive_adapter
from tests.decoders import randomize


def make_adapter(width: int = 12, experts: int = 2, seed: int = 0, **options: object) -> MMAdapter:
    """Return an adapter with random weights everywhere, in float64."""
    adapter = MMAdapter(width, MMAdapterConfig(**options), experts=experts).double()  # type: ignore[arg-type]
    randomize(adapter, seed)
    return adapter


def run(adapter: MMAdapter, hidden: Tensor, rows: Tensor) -> Tensor:
    adapter.route = Route(rows)
    result: Tensor = adapter(hidden)
    return result


@pytest.mark.parametrize("rows", [torch.tensor([[0.3, 0.7]]), torch.rand(3, 2)])
def test_a_new_adapter_is_the_identity_to_the_bit(rows: Tensor) -> None:
    hidden = torch.randn(3, 4, 12)
    assert run(MMAdapter(12, MMAdapterConfig(), experts=2), hidden, rows).equal(hidden)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    columns=st.integers(1, 3),
    rows=st.integers(1, 3),
    experts=st.integers(1, 4),
    scale=st.floats(-3, 3),
    bias=st.booleans(),
    one_row=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_output_is_that_of_the_formula_with_explicit_matrices(
    groups: int, columns: int, rows: int, experts: int, scale: float, bias: bool, one_row: bool, seed: int
) -> None:
    width = groups * rows
    adapter = make_adapter(width, experts, seed, rank=groups * columns, groups=groups, scale=scale, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 2, width, dtype=torch.float64, generator=generator)
    weights = torch.randn(1 if one_row else 3, experts, dtype=torch.float64, generator=generator)
    expected = naive_adapter(adapter, hidden, weights.expand(3, -1))
    torch.testing.assert_close(run(adapter, hidden, weights), expected, rtol=1e-12, atol=1e-12)


def test_one_shared_row_and_the_same_row_per_sample_give_the_same() -> None:
    adapter, hidden, row = make_adapter(), torch.randn(3, 4, 12).double(), torch.tensor([[0.2, 0.8]]).double()
    torch.testing.assert_close(run(adapter, hidden, row), run(adapter, hidden, row.repeat(3, 1)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_expanded_matrices_are_the_grouped_ones_in_blocks(groups: int) -> None:
    adapter = make_adapter(groups=groups)
    expected = torch.stack([block_diagonal(expert, groups) for expert in adapter.up])
    assert adapter.expanded_up().equal(expected)
    weights = torch.tensor([0.25, -2.0]).double()
    up, bias = adapter.mixed(weights)
    torch.testing.assert_close(up, 0.25 * expected[0] - 2.0 * expected[1])
    assert adapter.up_bias is not None
    torch.testing.assert_close(bias, 0.25 * adapter.up_bias[0] - 2.0 * adapter.up_bias[1])


def test_without_biases_there_are_none_and_zero_stays_zero() -> None:
    adapter = make_adapter(bias=False)
    assert {name for name, _ in adapter.named_parameters()} == {"down", "up"}
    zero = torch.zeros(2, 3, 12).double()
    assert run(adapter, zero, torch.rand(1, 2)).equal(zero)
    assert run(adapter, zero, torch.rand(2, 2)).equal(zero)


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_gradients_reach_every_parameter_and_the_weights(batch_rows: int) -> None:
    adapter = make_adapter()
    weights = torch.rand(batch_rows, 2, dtype=torch.float64, requires_grad=True)
    run(adapter, torch.randn(3, 4, 12).double(), weights).square().sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert weights.grad is not None and weights.grad.abs().min() > 0


def test_gradients_are_those_of_finite_differences() -> None:
    adapter = make_adapter(width=4, rank=2)
    hidden = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: run(adapter, x, w), (hidden, weights))


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_both_experts_see_the_same_dropout(batch_rows: int) -> None:
    adapter = make_adapter(dropout=0.5).train()
    with torch.no_grad():
        adapter.up[1] = -adapter.up[0]
        adapter.up_bias[1] = -adapter.up_bias[0]  # type: ignore[index]
    hidden = torch.randn(3, 4, 12).double()
    opposite = torch.full((batch_rows, 2), 0.5).double()
    torch.testing.assert_close(run(adapter, hidden, opposite), hidden)  # they cancel only under one mask
    one_sided = torch.tensor([[1.0, 0.0]]).double().repeat(batch_rows, 1)
    assert not run(adapter, hidden, one_sided).equal(run(adapter, hidden, one_sided))  # a mask is at work
    adapter.eval()
    assert run(adapter, hidden, one_sided).equal(run(adapter, hidden, one_sided))


def test_running_without_a_route_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"handle\.modality"):
        make_adapter()(torch.randn(1, 1, 12).double())


@pytest.mark.parametrize("width", [16, 64, 4096])
def test_a_routed_adapter_has_as_many_parameters_as_in_the_paper(width: int) -> None:
    with torch.device("meta"):
        adapter = MMAdapter(width, MMAdapterConfig(rank=8, groups=2), experts=2, routed=True)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 20 * width + 10


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_half_precision_input_stays_so_while_the_parameters_learn_in_full(batch_rows: int) -> None:
    adapter = make_adapter().float()
    hidden = torch.randn(3, 4, 12)
    rows = torch.rand(batch_rows, 2)
    result = run(adapter, hidden.bfloat16(), rows)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), run(adapter, hidden, rows), rtol=0.05, atol=0.1)
    result.float().sum().backward()
    assert {parameter.grad.dtype for parameter in adapter.parameters() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize(
    "options", [{"rank": 8, "groups": 3}, {"rank": 0}, {"groups": 0}, {"dropout": 1.0}, {"temperature": 0.0}]
)
def test_impossible_shapes_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(reversed(options))):
        MMAdapterConfig(**options)  # type: ignore[arg-type]


def test_groups_that_do_not_divide_the_width_are_an_error_for_the_user() -> None:
    with pytest.raises(ModelError, match=r"groups \(3\).*width \(16\)"):
        MMAdapter(16, MMAdapterConfig(rank=6, groups=3), experts=1)


ROUTES = [torch.tensor([[0.3, 0.7]]), torch.rand(3, 2), torch.rand(3, 4, 2)]
SIZES = [(3, 4), (1, 1)]


def kept_output(adapter: MMAdapter, hidden: Tensor, rows: Tensor) -> Tensor:
    """Return what an adapter that keeps its mixture makes of its second call."""
    adapter.route = Route(rows)
    with torch.no_grad(), kept_mixtures([adapter]):
        adapter(torch.zeros_like(hidden))
        assert adapter._kept is not None
        found: Tensor = adapter(hidden)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", ROUTES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_kept_mixture_gives_the_same_in_full_precision(rows: Tensor, bias: bool, size: tuple[int, int]) -> None:
    adapter = make_adapter(bias=bias)
    rows = rows[: size[0], : size[1]] if rows.dim() == 3 else rows[: size[0]]
    hidden = torch.randn(*size, 12, dtype=torch.float64)
    torch.testing.assert_close(kept_output(adapter, hidden, rows), run(adapter, hidden, rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 4])
def test_a_kept_mixture_takes_the_flat_inputs_of_some_layers(tokens: int) -> None:
    adapter, rows = make_adapter(), torch.rand(3, 2, dtype=torch.float64)
    hidden = torch.randn(3, tokens, 12, dtype=torch.float64)
    found = kept_output(adapter, hidden.flatten(0, 1), rows)
    torch.testing.assert_close(found, run(adapter, hidden, rows).flatten(0, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", ROUTES)
def test_a_kept_mixture_is_nearer_to_full_precision_than_the_narrow_products(rows: Tensor) -> None:
    adapter = make_adapter(width=64, rank=8).float()
    hidden = torch.randn(3, 4, 64).bfloat16()
    with torch.no_grad():
        exact, narrow = run(adapter, hidden.float(), rows), run(adapter, hidden, rows)
    found = kept_output(adapter, hidden, rows)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < (narrow - exact).norm()


def test_a_new_route_or_a_changed_weight_behind_the_block_is_not_missed() -> None:
    adapter, hidden = make_adapter(), torch.randn(3, 4, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = [run(adapter, hidden, rows) for rows in ROUTES]
        with kept_mixtures([adapter]):
            for rows, one in zip(ROUTES, expected, strict=True):
                torch.testing.assert_close(run(adapter, hidden, rows), one)
        adapter.up.add_(1.0)
        assert not adapter(hidden).equal(expected[-1])


def test_nothing_is_kept_of_what_a_gradient_needs() -> None:
    adapter, hidden = make_adapter(), torch.randn(3, 4, 12, dtype=torch.float64)
    adapter.route = Route(ROUTES[0])
    with kept_mixtures([adapter]):
        adapter(hidden)
        with torch.no_grad():
            adapter.up.add_(1.0)
        changed = adapter(hidden)
    assert changed.equal(run(adapter, hidden, ROUTES[0]))
    changed.sum().backward()
    assert adapter.up.grad is not None


def test_weights_read_off_the_input_are_read_anew_every_time() -> None:
    adapter = MMAdapter(12, MMAdapterConfig(routing="content"), experts=2, routed=True).double()
    randomize(adapter, 0)
    adapter.route = ContentRoute("first", 1.0)
    one, other = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = adapter(other)
        with kept_mixtures([adapter]):
            adapter(one)
            assert adapter(other).equal(expected)
