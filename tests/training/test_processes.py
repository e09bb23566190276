"""Two processes do what one does: same weights, same losses, same rates, whatever the model and however it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotune.data.template import Encoded
from cotune.recipe import Training
from cotune.training.processes import ALONE, Processes
from cotune.training.shares import own_passes
from tests.data.encoded import names, pools
from tests.run_ranks import run_ranks
from tests.tiny import tiny_recipe
from tests.training.two_ranks import CASES, RANKS, case_recipe, one_rank, prepared_loop, run_case


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two-tiny")
    tiny_recipe(root)
    return root


@pytest.fixture(scope="module")
def both(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which two processes left what they saw, and what each of them found."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTUNE_CACHE", str(folder / "cache"))
        case_recipe(tiny, "replicated", folder)  # its text file is written once
        run_ranks(one_rank, str(tiny), str(folder), count=RANKS)
    return folder, [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(RANKS)]


def steps(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if row["event"] == "step"]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(
    name: str, tiny: Path, both: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, found = both
    one = run_case(case_recipe(tiny, name, tmp_path), tmp_path / "one.jsonl")
    rough = name == "bf16"  # products of other shapes round otherwise
    for two in (rank[name] for rank in found):
        for path, tensor in one["weights"].items():
            torch.testing.assert_close(two["weights"][path], tensor, rtol=1e-3, atol=2e-2 if rough else 2e-5)
        assert two["held_out"] == pytest.approx(one["held_out"], rel=1e-2 if rough else 1e-4)
        assert [number for number, _ in two["answers"]] == [number for number, _ in one["answers"]]
        assert rough or two["answers"] == one["answers"]
    for mine, other in zip(steps(tmp_path / "one.jsonl"), steps(folder / f"{name}.0.jsonl"), strict=True):
        assert other["loss"] == pytest.approx(mine["loss"], rel=2e-2 if rough else 1e-4)
        assert (other["tokens"], other["loss_tokens"]) == (mine["tokens"], mine["loss_tokens"])


@pytest.mark.parametrize("name", CASES)
def test_weights_and_rates_are_the_same_on_both_processes_to_the_last_bit(
    name: str, both: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, found = both
    assert all(tensor.equal(found[1][name]["weights"][path]) for path, tensor in found[0][name]["weights"].items())
    rows = [steps(folder / f"{name}.{number}.jsonl") for number in range(RANKS)]
    for key in ("loss", "rates", "gradient_norms"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]], key
    kappas = [[row["balance"]["log_kappa"] for row in seen if "balance" in row] for seen in rows]
    assert kappas[0] == kappas[1] and len(kappas[0]) == 4
    assert len({json.dumps(row["rates"]) for row in rows[0]}) > 2  # the rule really moved them


def test_a_process_was_without_any_picture_while_the_other_had_one(tiny: Path, tmp_path: Path) -> None:
    """The case that hangs elsewhere is among those above."""
    _, loop = prepared_loop(case_recipe(tiny, "replicated", tmp_path))
    seen = set()
    for _ in range(8):
        batch = next(loop.batches)
        seen.add(tuple(any(item.sample.media for item in batch[number::RANKS]) for number in range(RANKS)))
    assert {(True, False), (False, True)} & seen


def test_a_resumed_run_of_two_processes_ends_with_the_same_bits(both: tuple[Path, list[dict[str, Any]]]) -> None:
    for rank in both[1]:
        whole, cut = rank["resumed"]
        assert all(tensor.equal(cut[path]) for path, tensor in whole.items())


def test_a_step_sends_four_bytes_for_every_value_that_learns(both: tuple[Path, list[dict[str, Any]]]) -> None:
    for sent in (both[1][0]["sent"], both[1][0]["sent sharded"]):
        numbers = 2  # loss and padding
        expected = 4 * sent["values"] + 8 * (sent["parameters"] + numbers)
        assert sent["bytes"]["allreduce_"] == expected
    assert both[1][0]["sent"]["bytes"].keys() == {"allreduce_"}


def test_a_sharded_step_gathers_every_layer_twice_for_each_micro_batch(
    both: tuple[Path, list[dict[str, Any]]],
) -> None:
    sent = both[1][0]["sent sharded"]
    (gathered,) = [size for kind, size in sent["bytes"].items() if "allgather" in kind]
    # Batches of three in micro-batches of one: two on either process, one of them for nothing.
    assert gathered == 2 * 2 * sent["layers"]
    assert sent["layers here"] == sent["layers"] / RANKS


def test_what_fails_on_one_process_ends_the_other_with_its_reason(both: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (rank["errors"] for rank in both[1])
    assert first["failure"] == "CotuneError: the disk is full"
    assert second["failure"] == "OtherRankError: the disk is full"
    assert first["together"] == "OtherRankError: the disk is full"
    assert second["together"] == "CotuneError: the disk is full"
    for heard in (first, second):
        assert "rank 0 sees 0, rank 1 sees 1" in heard["difference"]


@given(batch=pools, ranks=st.integers(1, 6), size=st.none() | st.integers(1, 7))
def test_shares_hold_every_sample_once_and_all_know_who_has_the_most_passes(
    batch: list[Encoded], ranks: int, size: int | None
) -> None:
    settings = Training(steps=1, micro_batch_size=size)
    found = [own_passes(batch, settings, Processes(number, ranks)) for number in range(ranks)]
    held = sorted(name for passes, _ in found for rows in passes for row in rows for name in names(row))
    assert held == sorted(names(batch))
    assert all(len(rows) <= (size or len(batch)) for passes, _ in found for rows in passes)
    assert {most for _, most in found} == {max(len(passes) for passes, _ in found)}


def test_a_process_alone_needs_no_other() -> None:
    values = torch.ones(2)
    assert ALONE.sum(values) is values and ALONE.gather("x") == ["x"] and ALONE.joined([1, 2]) == [1, 2]
    ALONE.check_equal("anything", 1)


def test_both_skip_what_one_cannot_step_by_and_both_stop_when_one_is_told_to(
    both: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, found = both
    for rank in found:
        faults = rank["faults"]
        assert (faults["skipped"], faults["steps"], faults["status"]) == (1, 6, 143)
        assert faults["snapshot"].name == "step-6"
        for path, tensor in found[0]["faults"]["weights"].items():
            assert faults["weights"][path].equal(tensor)
    assert [row["step"] for row in steps(folder / "faults.0.jsonl")] == [1, 2, 4, 5, 6]
