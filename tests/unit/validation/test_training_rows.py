"""Rows of measured training as they are read: what software fills in, what is named, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.software import load_software
from cosim.validation.cases import Case
from cosim.validation.row_system import CannotAnswerError
from cosim.validation.training_rows import Reader, check, model_of

RUN: dict[str, object] = {"num_accelerators": 64, "tp": 2, "pp": 4, "global_batch": 256, "micro_batch": 2}


def reader(stack: str = "megatron", **values: object) -> Reader:
    given_ = {name: str(value) for name, value in (RUN | values).items() if value is not None}
    return Reader(Case("r", 2, given_), load_software(stack))


@settings(max_examples=40, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 8]),
    pipeline=st.sampled_from([1, 4]),
    context=st.sampled_from([1, 2]),
    data=st.integers(1, 16),
)
def test_replicas_are_what_is_left_of_the_chips(tensor: int, pipeline: int, context: int, data: int) -> None:
    chips = tensor * pipeline * context * data
    row = reader(num_accelerators=chips, tp=tensor, pp=pipeline, cp=context)
    found = row.degrees()
    assert (found.tensor, found.pipeline, found.context, found.data) == (tensor, pipeline, context, data)
    assert (found.is_open, row.completed) == (False, [f"dp {data}"])
    with pytest.raises(CannotAnswerError, match="is not the number of accelerators"):
        reader(num_accelerators=chips + 1, tp=tensor, pp=pipeline, cp=context, dp=data).degrees()


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        ({"tp": 32, "pp": 1, "dp": 4}, (16, 1, 4, 2), "2 ranks a chip as one"),
        ({"tp": 1, "pp": 1, "dp": 128}, (1, 1, 64, 4), "2 ranks a chip as one"),
        ({"tp": 8, "pp": 4}, (4, 4, 4, 2), "2 ranks a chip as one"),
    ],
)
def test_cores_of_a_chip_are_one_rank(values: dict[str, object], expected: tuple[int, ...], said: str) -> None:
    row = reader("neuronx", **values)
    found = row.degrees()
    assert (found.tensor, found.pipeline, found.data, found.micro_batch) == expected
    assert said in row.completed


def test_cores_that_make_no_whole_chips_are_refused() -> None:
    with pytest.raises(CannotAnswerError, match="neither tp nor dp is a multiple of the 2 ranks of a chip"):
        reader("neuronx", num_accelerators=3, tp=1, pp=2, dp=3).degrees()


@pytest.mark.parametrize(
    ("stack", "values", "expected"),
    [
        ("megatron", {}, ("none", True, 1)),
        ("megatron", {"recompute": "full", "sp": 0, "zero": 0}, ("full", False, 0)),
        ("llm-foundry", {"recompute": "full"}, ("full", True, 3)),
        ("torchtitan", {"recompute": "selective-op"}, ("none", True, 3)),
        ("maxtext", {"recompute": "remat:custom (host offload)"}, ("full", False, 3)),
        ("megatron-2022", {"recompute": "selective"}, ("selective", False, 0)),
        ("pytorch-eager", {"recompute": "none"}, ("none", False, 0)),
    ],
)
def test_blank_columns_are_what_the_stack_does(
    stack: str, values: dict[str, object], expected: tuple[str, bool, int]
) -> None:
    row = reader(stack, **values)
    assert (row.recompute(), row.sequence_parallel(2), row.zero()) == expected
    for column, word in zip(("recompute", "sp", "zero"), ("recompute", "sp", "zero"), strict=True):
        named = [text for text in row.completed if text.startswith(word)]
        own = column in values and values[column] not in ("selective-op", "remat:custom (host offload)")
        assert not (own and named)


def test_what_nothing_fills_in_is_refused() -> None:
    with pytest.raises(CannotAnswerError, match="recompute is not given"):
        reader("megatron-2022").recompute()
    with pytest.raises(CannotAnswerError, match="recompute selective-layer is not modelled"):
        reader("torchtitan", recompute="selective-layer").recompute()


def test_one_tensor_rank_shares_out_no_sequence() -> None:
    row = reader("megatron")
    assert (row.sequence_parallel(1), row.completed) == (False, [])


@pytest.mark.parametrize(
    ("text", "zero", "shard"),
    [
        ("", 1, None),
        ("0", 0, None),
        ("2", 2, None),
        ("3:fsdp8", 3, 8),
        ("ici_fsdp=-1", 3, 64),
        ("ici_fsdp=16", 3, 16),
        ("ici_fsdp=32; dcn_fsdp_parallelism=2", 3, 64),
        ("ici_fsdp=1; ici_fsdp_transpose_parallelism=-1", 3, 64),
    ],
)
def test_sharding_is_a_stage_and_ranks(text: str, zero: int, shard: int | None) -> None:
    assert (reader(zero=text).zero(), reader(zero=text).shard(256)) == (zero, shard)


def test_the_rest_of_a_slice_is_no_more_than_a_node_has() -> None:
    assert reader(zero="ici_fsdp=-1", num_accelerators=1024).shard(256) == 256


@pytest.mark.parametrize(
    ("stack", "values", "micro_batch", "is_open"),
    [
        ("maxtext", {"micro_batch": "", "tp": "", "pp": ""}, 4, False),
        ("torchtitan", {"micro_batch": ""}, 1, False),
        ("nemo", {"micro_batch": ""}, None, True),
        ("nemo", {}, 2, True),
        ("nemo", {"virtual_pp": 2}, 2, False),
        ("nemo", {"pp": 1, "num_accelerators": 8}, 2, False),
        ("nemo", {"virtual_pp": 2, "experts": 8}, 2, True),
        ("nemo", {"virtual_pp": 2, "experts": 8, "ep": 4}, 2, False),
        ("pytorch-eager", {"micro_batch": "", "num_accelerators": 8}, 256, False),
    ],
)
def test_a_micro_batch_is_the_rows_or_the_stacks(
    stack: str, values: dict[str, object], micro_batch: int | None, is_open: bool
) -> None:
    found = reader(stack, **values).degrees()
    assert (found.micro_batch, found.is_open) == (micro_batch, is_open)


def test_full_sharding_without_degrees_is_replicas_alone() -> None:
    row = reader("nemo", tp="", pp="", zero="3:fsdp64")
    found = row.degrees()
    assert (found.tensor, found.pipeline, found.data) == (1, 1, 64)
    assert row.completed[:2] == ["tp 1", "pp 1"]


def test_formats_are_the_rows_or_those_of_an_open_word() -> None:
    known = ("bf16", "fp8", "nvfp4", "fp4")
    assert reader(precision="mxfp8").formats(known) == ("mxfp8",)
    assert reader(precision="fp8-or-fp4").formats(known) == ("fp8", "nvfp4")
    for text, reason in (("", "precision is not given"), ("int8", "precision int8 is not modelled")):
        with pytest.raises(CannotAnswerError, match=reason):
            reader(precision=text).formats(known)


def test_a_plain_gpt_has_a_name_of_one_or_none() -> None:
    dims = {
        "layers": 2,
        "hidden": 64,
        "ffn": 256,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "vocab": 100,
        "seq_len": 32,
    }
    for name in ("gpt-tiny", ""):
        found = model_of(reader(workload=name, **dims))
        assert (found.layers, found.position, found.gated) == (2, "learned", False)
    for name in ("gemma4-tiny", "tiny", "my-gpt-2"):
        with pytest.raises(CannotAnswerError, match="its name is not that of a plain GPT"):
            model_of(reader(workload=name, **dims))


def test_rows_are_checked_before_anything_is_built() -> None:
    good = {"measured_quantity": "samples_per_s", "measured_value": 3, "arch": "moe-mla", "task": "lora"}
    check(reader(**good).row)
    for bad in ({"arch": "ssm"}, {"task": "distil"}, {"measured_value": 0}):
        with pytest.raises(CannotAnswerError):
            check(reader(**{**good, **bad}).row)


def test_an_optimizer_is_the_stacks_own_or_one_of_the_library() -> None:
    for own in ("", "adam", "adamw"):
        assert reader(optimizer=own).optimizer() is None
    for other in ("lamb", "adafactor", "sgd", "muon"):
        assert reader(optimizer=other).optimizer() == other
    with pytest.raises(CannotAnswerError, match="optimizer lion is not modelled"):
        reader(optimizer="lion").optimizer()


@pytest.mark.parametrize(
    ("precision", "notes", "expected", "recipe"),
    [
        ("fp8", "", "fp8", "tensor"),
        ("fp8_block", "", "fp8", "block"),
        ("fp8-blockwise", "", "fp8", "block"),
        ("fp8", "NeMo 25.11; precision as stated: fp8_block", "fp8", "block"),
        ("fp8", "precision as stated: fp8-tensorwise", "fp8", "tensor"),
        ("fp8", "precision as stated: fp8-cs; blocks of 128", "fp8", "tensor"),
        ("mxfp8", "precision as stated: fp8-block", "mxfp8", "tensor"),
        ("bf16", "as fast as fp8_block elsewhere", "bf16", "tensor"),
    ],
)
def test_fp8_in_blocks_is_fp8_with_a_recipe(precision: str, notes: str, expected: str, recipe: str) -> None:
    row = reader(precision=precision, notes=notes)
    assert (row.formats(("bf16", "fp8")), row.fp8_recipe()) == ((expected,), recipe)
