"""Measured training steps as cases: what is completed, what is answered in which quantity, why a row is not."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.mapping.plan import RECOMPUTES
from cosim.records import structure
from cosim.validation import training, training_rows
from cosim.validation.cases import Case
from cosim.validation.predict import predict
from cosim.validation.row_system import CannotAnswerError
from cosim.validation.training import Answer, answers, training_case
from cosim.validation.training_rows import QUANTITIES
from cosim.workload.load import load_model

ROW: dict[str, object] = {
    "accelerator": "a100-80gb-sxm",
    "system": "dgx-a100",
    "software_stack": "megatron-2022",
    "workload": "gpt3-175b",
    "num_accelerators": 64,
    "tp": 8,
    "pp": 8,
    "virtual_pp": 3,
    "sp": 1,
    "micro_batch": 1,
    "global_batch": 64,
    "seq_len": 2048,
    "recompute": "selective",
    "precision": "fp16",
    "vocab": 51200,
    "measured_quantity": "seconds_per_step",
    "measured_value": 13.75,
}
PLAIN: dict[str, object] = {
    "workload": "gpt-8b",
    "layers": 24,
    "hidden": 4096,
    "ffn": 16384,
    "heads": 32,
    "kv_heads": 32,
    "head_dim": 128,
}


@pytest.fixture(scope="module", autouse=True)
def _read_models_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_rows, "load_model", functools.cache(load_model))
        yield


def row(**values: object) -> Case:
    """GPT-3 with selective recompute on 64 chips, changed; None takes a column away."""
    given_ = {name: str(value) for name, value in (ROW | values).items() if value is not None}
    return Case("r", 2, given_)


def answer(**values: object) -> Answer:
    (found,) = answers([row(**values)])
    return found


def seconds(**values: object) -> float:
    found = answer(**values)
    assert found.reason == ""
    assert found.predicted is not None
    return found.predicted


def test_a_row_becomes_the_plan_that_it_names() -> None:
    case, completed = training_case(row(zero="1", dp=2, num_accelerators=128, global_batch=256))
    plan, model = case.plan, case.model
    degrees = (plan.tensor, plan.pipeline, plan.data, plan.virtual, plan.micro_batch, plan.zero)
    assert tuple(float(each) for each in degrees) == (8.0, 8.0, 2.0, 3.0, 1.0, 1.0)
    assert (plan.sequence_parallel, RECOMPUTES[int(plan.recompute)], plan.dtype) == (True, "selective", "fp16")
    assert (float(case.scenario.context), float(case.scenario.global_batch)) == (2048.0, 256.0)
    assert (float(model.vocab), float(model.layers), float(case.system.chips)) == (51200.0, 96.0, 128.0)
    assert case.software is not None
    assert (case.software.name, case.phase, completed) == ("megatron-2022", "train", ())


def test_a_row_is_answered_by_its_case() -> None:
    case, _ = training_case(row())
    assert seconds() == float(evaluate(case).time[0])
    assert answer().measured == 13.75


def test_quantities_are_those_of_the_row() -> None:
    step = seconds()
    by_hand = {
        "seconds_per_step": step,
        "samples_per_s": 64 / step,
        "tokens_per_s_per_chip": 64 * 2048 / 64 / step,
    }
    assert set(by_hand) == set(QUANTITIES)
    for quantity, value in by_hand.items():
        found = answer(measured_quantity=quantity, measured_value=7.5)
        assert found.predicted == pytest.approx(value, rel=1e-12)
        assert found.measured == 7.5


@pytest.mark.parametrize(
    ("values", "completed"),
    [
        ({}, ("dp 1",)),
        ({"dp": 1}, ()),
        ({"num_accelerators": 256}, ("dp 4",)),
        ({**PLAIN, "dp": 1}, ("plain GPT",)),
        ({**PLAIN, "dp": 1, "vocab": None}, ("vocab 51200", "plain GPT")),
        ({**PLAIN, "vocab": ""}, ("vocab 51200", "plain GPT", "dp 1")),
        ({**PLAIN, "workload": ""}, ("plain GPT", "dp 1")),
    ],
)
def test_what_a_row_leaves_open_is_completed_and_said(values: dict[str, object], completed: tuple[str, ...]) -> None:
    found = answer(**values)
    assert (found.reason, found.completed) == ("", completed)
    assert found.predicted is not None


def test_a_model_of_the_library_keeps_what_the_row_does_not_change() -> None:
    case, _ = training_case(row(layers=48, vocab=None, seq_len=4096))
    assert float(case.model.layers) == 48.0
    assert (float(case.model.hidden), float(case.model.vocab)) == (12288.0, 50257.0)
    assert float(case.model.max_positions) == 4096.0  # what ran had its positions
    assert float(training_case(row(seq_len=512))[0].model.max_positions) == 2048.0
    assert seconds(layers=48) < 0.6 * seconds()


def test_heads_that_share_no_keys_bring_their_keys_along() -> None:
    tried = {"workload": "bloom-proto-176b", "vocab": 250_000, "heads": 128, "head_dim": 112}
    model = training_case(row(**tried))[0].model
    assert (float(model.heads), float(model.kv_heads), float(model.head_dim)) == (128.0, 128.0, 112.0)
    # Groups of a model that has them stay as they are.
    grouped = training_case(row(workload="llama-3-8b", vocab=None, heads=64, head_dim=64))[0].model
    assert (float(grouped.heads), float(grouped.kv_heads)) == (64.0, 8.0)


def test_a_row_may_run_a_mixture_of_experts_with_fewer_layers_and_nothing_else() -> None:
    moe = {"workload": "grok-1", "vocab": None, "ffn": 4096, "head_dim": 64, "arch": "moe"}
    whole, proxy = (training_case(row(**moe, layers=layers))[0].model for layers in (None, 8))
    assert (float(whole.layers), float(proxy.layers)) == (64.0, 8.0)
    assert (float(proxy.expert_ffn), float(proxy.head_dim)) == (32768.0, 128.0)


def test_dimensions_alone_make_a_plain_gpt() -> None:
    case, _ = training_case(row(**PLAIN))
    known = training_case(row())[0].model
    own = case.model
    assert (float(own.layers), float(own.hidden), float(own.ffn)) == (24.0, 4096.0, 16384.0)
    assert structure(own) == structure(known)  # biases, norms, positions and dropout as GPT-3 has them


def test_columns_that_are_not_there_mean_what_is_usual() -> None:
    assert seconds(virtual_pp=None) == seconds(virtual_pp=1) > seconds()
    assert seconds(zero=None) == seconds(zero="") == seconds(zero="0")
    assert seconds(task=None) == seconds(task="pretrain") == seconds(task="")
    assert seconds(arch="dense", cp=1) == seconds(arch="", cp="")
    assert seconds(sp=None) == seconds(sp=0) != seconds(sp=1)
    assert seconds(accelerator="") == seconds()


def test_sharding_over_all_data_ranks_is_a_zero_stage() -> None:
    wide = {"num_accelerators": 256, "global_batch": 256}
    assert seconds(zero="3:fsdp4", **wide) == seconds(zero="3", **wide) > seconds(zero="0", **wide)


def test_sharding_over_fewer_ranks_is_a_shard() -> None:
    wide = {"num_accelerators": 256, "global_batch": 256}
    case, _ = training_case(row(zero="3:fsdp2", **wide))
    assert (float(case.plan.zero), float(case.plan.shard)) == (3.0, 2.0)
    assert seconds(zero="3:fsdp2", **wide) != seconds(zero="3", **wide)
    assert answer(zero="3:fsdp3", **wide).reason == "the plan is not legal here: shard"


def test_a_row_that_ran_did_fit() -> None:
    case, _ = training_case(row(**{**PLAIN, "hidden": 12288, "ffn": 49152, "heads": 96, "kv_heads": 96}, pp=1, tp=8))
    assert np.isinf(case.system.chip.memory["dram"].capacity)
    assert seconds(pp=1, num_accelerators=8, virtual_pp=1, recompute="none") > 0.0  # 175 G parameters on 8 chips


REASONS: list[tuple[dict[str, object], str]] = [
    ({"measured_quantity": "joules"}, "measured quantity or value is unknown"),
    ({"measured_quantity": None}, "measured quantity or value is unknown"),
    ({"measured_value": ""}, "measured quantity or value is unknown"),
    ({"measured_value": 0}, "measured quantity or value is unknown"),
    ({"measured_value": -2.5}, "measured quantity or value is unknown"),
    ({"measured_value": "fast"}, "measured quantity or value is unknown"),
    ({"task": "distil"}, "task distil is not modelled yet"),
    ({"arch": "encoder"}, "workload gpt3-175b-pretraining is not in the library"),
    ({"arch": "hybrid-moe", "workload": "jamba"}, "workload jamba is not in the library"),
    ({"arch": "ssm"}, "architecture ssm is not trained yet"),
    ({"software_stack": "abacus"}, "software stack abacus is not in the library"),
    ({"software_stack": None}, "software stack (blank) is not in the library"),
    ({"system": "abacus"}, "system abacus is not in the library"),
    ({"system": "", "accelerator": "x"}, "system (blank) is not in the library, nor a usual one of x"),
    ({"system": "", "accelerator": ""}, "system (blank) is not in the library, nor a usual one of (blank)"),
    ({"accelerator": "h100-sxm"}, "system dgx-a100 has a100-80gb-sxm, not h100-sxm"),
    (
        {**PLAIN, "workload": "gemma4-e2b"},
        "workload gemma4-e2b is not in the library and its name is not that of a plain GPT",
    ),
    ({**PLAIN, "arch": "moe"}, "mixture of experts gpt-8b is not in the library"),
    ({"workload": "gpt-9"}, "workload gpt-9 is not in the library and layers is not given"),
    ({"workload": ""}, "workload (blank) is not in the library and layers is not given"),
    ({**PLAIN, "head_dim": None}, "workload gpt-8b is not in the library and head_dim is not given"),
    ({**PLAIN, "ffn": 11008}, "workload gpt-8b is not in the library and is no plain GPT"),
    ({**PLAIN, "vocab": None, "software_stack": "megatron"}, "the vocabulary is not given"),
    ({"seq_len": ""}, "seq_len is not given"),
    ({"seq_len": 0.5}, "seq_len 0.5 is not a positive whole number"),
    ({"num_accelerators": None}, "num_accelerators is not given"),
    ({"tp": 0}, "tp 0 is not a positive whole number"),
    ({"pp": "all"}, "pp all is not a positive whole number"),
    ({"micro_batch": None}, "micro_batch is not given"),
    ({"global_batch": 2.5}, "global_batch 2.5 is not a positive whole number"),
    ({"virtual_pp": -1}, "virtual_pp -1 is not a positive whole number"),
    ({"dp": 1.5}, "dp 1.5 is not a positive whole number"),
    ({"seq_len": 2_000_000_000}, "max_positions is not possible: Input should be less than or equal to 10000000"),
    ({"hidden": -4}, "hidden -4 is not a positive whole number"),
    ({"vocab": 0}, "vocab 0 is not a positive whole number"),
    ({"sp": "true"}, "sp true is not modelled"),
    ({"precision": "int4"}, "precision int4 is not modelled"),
    ({"num_accelerators": 100}, "tp x pp x cp x dp is not the number of accelerators"),
    ({"dp": 3}, "tp x pp x cp x dp is not the number of accelerators"),
    ({"zero": "4"}, "sharding 4 is not modelled"),
    ({"zero": "3:fsdpall"}, "sharding 3:fsdpall says no number of ranks"),
    ({"zero": "ici_tensor=8"}, "sharding ici_tensor=8 is not modelled"),
    ({"tp": None}, "tp is not given"),
    ({"pp": ""}, "pp is not given"),
    ({"recompute": "block"}, "recompute block is not modelled"),
    ({"recompute": ""}, "recompute is not given"),
    ({"precision": "fp99"}, "precision fp99 is not modelled"),
    ({"precision": None}, "precision is not given"),
    ({"precision": "fp8"}, "a100-80gb-sxm has no matrix rate in fp8"),
    ({"precision": "fp8-or-fp4"}, "the chip has no matrix rate in fp8-or-fp4"),
]


@pytest.mark.parametrize(("values", "reason"), REASONS)
def test_a_row_that_cannot_be_answered_says_why(values: dict[str, object], reason: str) -> None:
    with pytest.raises(CannotAnswerError) as caught:
        training_case(row(**values))
    assert str(caught.value) == reason
    assert answer(**values) == Answer(None, None, reason)


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({"virtual_pp": 50}, "virtual_pipeline"),
        ({"global_batch": 60}, "virtual_pipeline"),
        ({"global_batch": 61, "virtual_pp": 1, "micro_batch": 2}, "batch"),
        ({"tp": 5, "num_accelerators": 40}, "tensor_parallel"),
        ({"pp": 100, "tp": 1, "num_accelerators": 100, "virtual_pp": 1}, "pipeline_parallel"),
    ],
)
def test_a_plan_that_is_not_legal_is_named(values: dict[str, object], limit: str) -> None:
    found = answer(**values)
    assert (found.predicted, found.reason) == (None, f"the plan is not legal here: {limit}")


H100: dict[str, object] = {
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "software_stack": "nemo",
    "workload": "llama-3-8b",
    "num_accelerators": 8,
    "tp": 1,
    "pp": 1,
    "virtual_pp": "",
    "sp": "",
    "dp": 8,
    "micro_batch": 1,
    "global_batch": 32,
    "seq_len": 4096,
    "recompute": "",
    "precision": "bf16",
    "vocab": "",
}


def test_tasks_update_all_adapters_or_nothing() -> None:
    tasks = ("", "pretrain", "sft", "lora", "forward-backward-only")
    updates = [training_case(row(**H100, task=task))[0].scenario.updates for task in tasks]
    assert updates == ["all", "all", "all", "adapters", "nothing"]
    whole, tuned, few, none = (seconds(**H100, task=task) for task in tasks[1:])
    assert whole == tuned > none > few


def test_a_name_that_says_its_task_is_the_workload_without_it() -> None:
    tuned = {**H100, "task": "lora"}
    assert seconds(**{**tuned, "workload": "llama-3-8b-lora"}) == seconds(**tuned)
    assert "llama-3-8b-lora is not in the library" in answer(**{**H100, "workload": "llama-3-8b-lora"}).reason


def test_an_open_format_is_the_faster_that_the_chip_has_and_said() -> None:
    blackwell = {**H100, "accelerator": "b200-sxm", "system": "dgx-b200"}
    either = answer(**{**blackwell, "precision": "fp8-or-fp4"})
    formats = {each: seconds(**{**blackwell, "precision": each}) for each in ("fp8", "nvfp4", "mxfp4")}
    assert either.predicted == min(formats.values())
    assert f"precision {min(formats, key=lambda each: formats[each])}" in either.completed
    one = answer(**{**H100, "precision": "fp8-or-fp4"})
    assert one.predicted == seconds(**{**H100, "precision": "fp8"})
    assert not [word for word in one.completed if word.startswith("precision")]


def test_open_degrees_of_a_tuned_stack_are_the_fastest_that_fit() -> None:
    left_open = {"tp": "", "pp": "", "dp": "", "micro_batch": ""}
    small = {**H100, "layers": 8}  # which fits in many ways
    found = answer(**{**small, **left_open})
    assert found.predicted is not None
    assert found.completed[-1].startswith("fastest of ")
    assert found.predicted <= seconds(**small) * (1 + 1e-9)
    case, _ = training_case(row(**{**small, **left_open}))
    assert float(case.plan.chips) == 8.0
    # Stacks that nobody tuned for a row say which degree is missing.
    assert answer(**{**H100, **left_open, "software_stack": "megatron"}).reason == "tp is not given"


def test_a_search_keeps_what_the_row_gives_and_takes_the_chips_of_the_row() -> None:
    # One tray of a rack of 72.
    few = {**H100, "accelerator": "gb200", "system": "gb200-nvl72", "num_accelerators": 4, "micro_batch": "", "dp": 2}
    case, completed = training_case(row(**{**few, "tp": 2}))
    degrees = (case.plan.tensor, case.plan.pipeline, case.plan.data, case.plan.chips)
    assert tuple(float(each) for each in degrees) == (2.0, 1.0, 2.0, 4.0)
    assert "tp 2, pp 1, cp 1, dp 2" in completed[-1]


def test_a_run_that_does_not_fit_by_our_count_has_the_least_micro_batch() -> None:
    huge = {**H100, "workload": "llama-3.1-405b", "micro_batch": "", "zero": 0}
    case, completed = training_case(row(**huge))
    assert (float(case.plan.micro_batch), completed[-1]) == (1.0, "micro_batch 1")
    assert answer(**huge).reason == ""


def test_a_slice_of_a_torus_has_the_chips_of_the_row() -> None:
    tpu = {"accelerator": "tpu-v6e", "system": "", "software_stack": "maxtext", "tp": "", "pp": "", "dp": ""}
    case, completed = training_case(row(**{**H100, **tpu, "num_accelerators": 32, "micro_batch": "", "recompute": ""}))
    assert (float(case.system.chips), float(case.plan.data), float(case.plan.micro_batch)) == (32.0, 32.0, 1.0)
    assert (float(case.plan.zero), RECOMPUTES[int(case.plan.recompute)]) == (3.0, "full")
    assert {"tp 1", "pp 1", "dp 32", "system tpu-v6e-pod", "recompute full", "zero 3"} <= set(completed)


VARIED = st.fixed_dictionaries(
    {
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "sp": st.sampled_from([0, 1]),
        "micro_batch": st.sampled_from([1, 2, "", 3]),
        "num_accelerators": st.sampled_from([64, 128, 100]),
        "layers": st.sampled_from([48, 96]),
        "software_stack": st.sampled_from(["megatron-2022", "megatron-2023", "megatron", "abacus"]),
        "workload": st.sampled_from(["gpt3-175b", "megatron-22b"]),
        "measured_quantity": st.sampled_from(["seconds_per_step", "samples_per_s"]),
    }
)


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(VARIED, max_size=6))
def test_rows_together_are_answered_as_each_alone_and_in_order(rows: list[dict[str, object]]) -> None:
    cases = [row(**values) for values in rows]
    together = answers(cases)
    assert len(together) == len(cases)
    for found, case in zip(together, cases, strict=True):
        (alone,) = answers([case])
        assert (found.reason, found.completed, found.measured) == (alone.reason, alone.completed, alone.measured)
        assert found.predicted == (None if alone.predicted is None else pytest.approx(alone.predicted, rel=1e-12))


def test_rows_of_one_structure_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = training.evaluate

    def spy(case: training.Case) -> object:
        sizes.append(int(case.plan.tensor.shape[0]))
        return whole(case)

    monkeypatch.setattr(training, "evaluate", spy)
    # Models, degrees and batches are numbers; whether the sequence is split is structure.
    same = [row(), row(workload="megatron-1t", pp=64, num_accelerators=512), row(global_batch=128), row(**PLAIN)]
    other = [row(recompute="full", sp=0), row(seq_len="")]
    answers([same[0], other[0], *same[1:], other[1]])
    assert sorted(sizes) == [1, 4]


def test_predictions_are_grouped_by_source_accelerator_and_workload() -> None:
    known, unknown = predict("training", [row(source="a paper"), row(source="a paper", system="abacus")])
    assert known.group == unknown.group == ("a paper", "a100-80gb-sxm", "gpt3-175b")
    assert known.predicted == seconds()
    assert (unknown.predicted, unknown.measured, unknown.reason) == (None, None, "system abacus is not in the library")
    assert predict("training", []) == []


@pytest.mark.parametrize("stack", ["nemo", "megatron-2022"])
def test_sharding_over_no_ranks_is_off(stack: str) -> None:
    fields = {**H100, "software_stack": stack, "recompute": "none", "sp": 0, "vocab": 128256}
    case, completed = training_case(row(**fields, zero="3:fsdp0"))
    usual = training._software(stack).defaults.zero
    assert float(case.plan.zero) == (0 if usual is None else usual.value)
    assert f"zero {int(case.plan.zero)} for 3:fsdp0" in completed
    assert np.isinf(case.plan.shard)


def test_a_model_on_one_stage_has_no_pieces() -> None:
    case, completed = training_case(row(**{**H100, "virtual_pp": 12}))
    assert (float(case.plan.virtual), "virtual_pp 1 for 12 on one stage" in completed) == (1.0, True)
    assert seconds(**{**H100, "virtual_pp": 12}) == seconds(**H100)


def test_a_system_that_was_sold_with_other_chips_is_the_one_with_the_row_s() -> None:
    small = {"accelerator": "a100-40gb-sxm", "system": "dgx-a100"}
    case, completed = training_case(row(**small))
    assert (case.system.chip.name, case.system.name) == ("a100-40gb-sxm", "dgx-a100-40gb")
    assert "system dgx-a100-40gb" in completed
    with pytest.raises(CannotAnswerError, match="system dgx-a100 has a100-80gb-sxm, not h100-sxm"):
        training_case(row(accelerator="h100-sxm"))


def test_uneven_pieces_are_answered() -> None:
    pieces = {"tp": 8, "pp": 8, "num_accelerators": 512, "virtual_pp": 8, "dp": 8, "recompute": "none"}
    even, uneven = (
        seconds(
            **{**H100, **pieces, "workload": "llama-3.1-405b", "layers": layers, "global_batch": 512, "seq_len": 512}
        )
        for layers in (128, 126)
    )
    # 16 layers on every stage; or 15 where embedding or head lie, so that the one with the head is less behind.
    assert uneven == pytest.approx(even, rel=0.05)
    assert uneven < even


ENCODER: dict[str, object] = {
    "accelerator": "trainium1",
    "system": "trn1.32xlarge",
    "software_stack": "neuronx",
    "workload": "bert-large",
    "arch": "encoder",
    "num_accelerators": 16,
    "micro_batch": 16,
    "global_batch": 16384,
    "seq_len": 128,
    "precision": "bf16",
    **dict.fromkeys(("tp", "pp", "virtual_pp", "sp", "recompute", "vocab"), ""),
}


def test_an_encoder_is_its_workload_as_it_is_trained() -> None:
    case, completed = training_case(row(**ENCODER))
    assert not case.model.causal
    assert {"tp 1", "pp 1"} <= set(completed)
    assert (float(case.plan.data), float(case.plan.micro_batch)) == (16.0, 32.0)
    assert seconds(**{**ENCODER, "global_batch": 2_097_152}) > seconds(**ENCODER)


def test_a_hybrid_is_answered_with_the_layers_of_the_library() -> None:
    fields = {"workload": "nemotron-h-56b", "arch": "hybrid-mamba", "tp": 8, "num_accelerators": 64, "dp": 8}
    case, _ = training_case(row(**{**H100, **fields, "layers": 118, "seq_len": 8192, "global_batch": 192}))
    assert case.model.mamba is not None
    assert float(case.model.mamba.mamba) * 118 == pytest.approx(54.0)
