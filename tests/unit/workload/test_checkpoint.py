"""What quantised checkpoints hold narrow: parts of products, formats, sizes of files that are published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cosim import library
from cosim.dtypes import bytes_per_element
from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import array, at, structure
from cosim.workload.checkpoint import WIDE, Checkpoint, part_of, weights_dtype
from cosim.workload.graph import decode_graph, prefill_graph
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.moe import repeats
from cosim.workload.ops import Matmul

Describe = Callable[..., Model]
MODELS = sorted(path.stem for path in (library.shipped() / "workloads" / "models").rglob("*.yaml"))
EXPERTS = {"mxfp4": {"parts": ["experts"], "source": "a test"}}


def arrays(name: str) -> ModelArrays:
    return lower_model(Varied(load_model(name)))


def products(model: ModelArrays) -> list[Matmul]:
    return list(decode_graph(model, array(1.0), array(1.0)).matmuls)


def stored(model: ModelArrays, dtype: str) -> float:
    """Bytes of all weights and of the input embedding at 16 bits; norms and biases left out."""
    total = 2.0 * float(model.vocab * model.hidden)
    for op in products(model):
        each = float(sum(axis.size for axis in op.n) * op.k.size)
        many = op.routed.experts if op.routed is not None else array(1.0) if op.batch is None else op.batch.size
        runs = float(many * op.count * repeats(model, op.group))
        total += each * runs * bytes_per_element(weights_dtype(op, dtype, model.quantised))
    return total


@pytest.mark.parametrize(
    ("name", "dtype", "gigabytes"),
    [
        ("gpt-oss-120b", "mxfp4", 65.25),  # model card, table 1: 60.8 GiB
        ("gpt-oss-20b", "mxfp4", 13.77),  # 12.8 GiB
    ],
)
def test_sizes_of_published_checkpoints_follow(name: str, dtype: str, gigabytes: float) -> None:
    assert stored(arrays(name), dtype) / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_attention_of_deepseek_stays_wide_in_four_bits_and_not_in_eight() -> None:
    model = arrays("deepseek-r1")
    by_format = {
        dtype: {part_of(op): weights_dtype(op, dtype, model.quantised) for op in products(model)}
        for dtype in ("fp8", "nvfp4")
    }
    assert by_format["fp8"]["attention"] == by_format["fp8"]["experts"] == "fp8"
    assert by_format["nvfp4"]["attention"] == by_format["nvfp4"]["attention_out"] == WIDE
    assert by_format["nvfp4"]["experts"] == by_format["nvfp4"]["shared_experts"] == "nvfp4"
    assert {found[None] for found in by_format.values()} == {WIDE}  # router and head


@pytest.mark.parametrize("name", MODELS)
def test_every_product_of_a_shipped_model_is_of_a_part_or_wide(name: str) -> None:
    if not (model := load_model(name)).causal or model.mamba is not None:
        return  # not served
    lowered = lower_model(Varied(model))
    for graph in (decode_graph(lowered, array(1.0), array(1.0)), prefill_graph(lowered, array(1.0), array(8.0))):
        for op in graph.matmuls:
            wide = op.activations or op.precision == "head"
            assert (part_of(op) is None) == wide, op.name


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_say_where_they_were_read_and_are_lowered(name: str) -> None:
    model = load_model(name)
    assert all(len(checkpoint.source) > 20 for checkpoint in model.quantised.values())
    lowered = lower_model(Varied(model))
    assert dict(lowered.quantised) == {dtype: held.parts for dtype, held in model.quantised.items()}
    assert at(lowered, 0).quantised == lowered.quantised
    hash(structure(lowered))


def test_a_format_without_a_checkpoint_holds_every_linear_layer(describe: Describe) -> None:
    model = lower_model(Varied(describe()))
    found = {op.name: weights_dtype(op, "fp8", model.quantised) for op in products(model)}
    assert found == {"qkv": "fp8", "attention_out": "fp8", "ffn_in": "fp8", "ffn_out": "fp8", "logits": WIDE}


def test_parts_that_a_checkpoint_does_not_name_are_wide(describe: Describe, routed_choices: dict[str, Any]) -> None:
    model = lower_model(Varied(describe(**routed_choices, quantised=EXPERTS)))
    found = {op.name: weights_dtype(op, "mxfp4", model.quantised) for op in products(model)}
    assert {name for name, dtype in found.items() if dtype == "mxfp4"} == {"expert_in", "expert_out"}
    assert {weights_dtype(op, "fp8", model.quantised) for op in products(model)} == {"fp8", WIDE}


@pytest.mark.parametrize(
    ("parts", "problem"), [([], "names no part"), (["dense", "dense"], "named twice"), (["heads"], "parts")]
)
def test_parts_are_named_once_and_known(parts: list[str], problem: str) -> None:
    with pytest.raises((SpecError, ValueError), match=problem):
        Checkpoint(parts=tuple(parts), source="a test")  # type: ignore[arg-type]  # what a file may say


def test_experts_of_a_dense_model_are_refused(describe: Describe) -> None:
    with pytest.raises(SpecError, match="not part of this model"):
        describe(quantised=EXPERTS)
