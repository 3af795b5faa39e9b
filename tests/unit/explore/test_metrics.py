"""Numbers of a result by their column name: the same in tables, constraints and objectives."""

from __future__ import annotations

import numpy as np
import pytest

import cosim
from cosim.explore.constraints import parse_constraints
from cosim.explore.estimate import Estimate
from cosim.explore.metrics import DIE_METRICS, metric, metric_names, unit_of

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
DIE = {"area_mm2": np.float64(700.0), "tdp_w": np.float64(800.0)}


@pytest.fixture(scope="module")
def decode() -> Estimate:
    """Three batches of a small model on eight chips."""
    asic, llama = cosim.system("asic-8"), cosim.workload("llama-3.1-8b")
    return cosim.estimate_decode(asic, llama, {"tensor_parallel": 8}, batch=np.array([8.0, 64.0, 512.0]), context=2048)


@pytest.fixture(scope="module")
def train() -> Estimate:
    asic, llama = cosim.system("asic-8"), cosim.workload("llama-3.1-8b")
    plan = {"tensor_parallel": 2, "data_parallel": 4}
    return cosim.estimate_training(asic, llama, plan, global_batch=32, context=2048)


def number(name: str, found: Estimate) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return metric(name, found.case, found.result, DIE)


def test_every_number_has_one_value_a_point_and_stands_in_the_table(decode: Estimate) -> None:
    table = decode.table()
    for name in metric_names():
        values = number(name, decode)
        assert values.shape == (3,)
        if name not in DIE_METRICS and name != "tokens_per_s_per_mm2":
            assert np.array_equal(values, np.asarray(table[name]), equal_nan=True), name


def test_rates_by_hand(decode: Estimate) -> None:
    time, batch = number("time_s", decode), np.array([8.0, 64.0, 512.0])
    assert number("tokens_per_s_per_chip", decode) == pytest.approx(batch / time / 8)
    assert number("tokens_per_s_per_user", decode) == pytest.approx(1 / time)
    assert number("tokens_per_s_per_mm2", decode) == pytest.approx(batch / time / 8 / 700.0)
    assert number("tokens_per_j_chip", decode) == pytest.approx(batch / number("energy_j", decode))
    assert number("tdp_w", decode).tolist() == [800.0] * 3


def test_parts_add_up_under_their_names(decode: Estimate) -> None:
    parts = [number(name, decode) for name in metric_names() if name.startswith("breakdown_s.")]
    assert sum(parts) == pytest.approx(number("time_s", decode))
    kinds = [name for name in metric_names() if name.startswith("memory_bytes.") and name != "memory_bytes.total"]
    assert sum(number(name, decode) for name in kinds) == pytest.approx(number("memory_bytes.total", decode))


def test_training_has_no_user(train: Estimate) -> None:
    assert np.isnan(number("tokens_per_s_per_user", train)).all()
    assert number("tokens_per_s_per_chip", train) == pytest.approx(32 * 2048 / train.result.time / 8)


def test_units_are_those_that_values_are_in() -> None:
    assert [unit_of(name) for name in ("time_s", "area_mm2", "tdp_w", "energy_j", "power_w")] == [
        "s",
        "mm2",
        "W",
        "J",
        "W",
    ]
    assert (unit_of("memory_bytes.kv"), unit_of("breakdown_s.host"), unit_of("mfu")) == ("B", "s", "")
    assert unit_of("tokens_per_s_per_mm2") == "token/s/mm2"
    assert {unit_of(name) for name in metric_names() if name.startswith("tokens_per_j")} == {"token/J"}


def test_an_unknown_name_is_no_number(decode: Estimate) -> None:
    for name in ("time", "system.nodes", "limit_by"):
        with pytest.raises(KeyError):
            number(name, decode)


def test_constraints_and_numbers_share_their_names(decode: Estimate) -> None:
    # Definitions of MFU are those of training.
    for name in (name for name in metric_names() if not name.startswith("mfu.")):
        (constraint,) = parse_constraints([f"{name} >= 0"])
        assert (constraint.excess(number(constraint.column, decode)) <= 0.0).all(), name


def test_items_are_the_batch_over_the_time_in_every_phase(decode: Estimate, train: Estimate) -> None:
    assert number("items_per_s", decode) == pytest.approx(np.array([8.0, 64.0, 512.0]) / decode.result.time)
    assert number("items_per_s", train) == pytest.approx(32.0 / train.result.time)
    assert unit_of("items_per_s") == "item/s"


def test_an_item_without_tokens_counts_as_one() -> None:
    net, bert = (
        cosim.estimate_prefill(cosim.system("asic-8"), cosim.workload(name), {"data_parallel": 8}, batch=64, **tokens)
        for name, tokens in (("resnet-50", {}), ("bert-large", {"context": 128}))
    )
    assert net.result.tokens.item() == 64.0
    assert bert.result.tokens.item() == 64.0 * 128.0
    assert number("items_per_s", net) == pytest.approx(8.0 * number("tokens_per_s_per_chip", net))
