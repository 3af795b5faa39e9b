"""The command of a row: what stands in it, and that a shell and `--set` read back what was written."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.cli.output import overrides
from cosim.explore.command import command_of
from cosim.explore.command import settings as settings_of
from cosim.explore.estimate import _DEGREES, _TRAINING_ONLY

DECODE: dict[str, Any] = {
    "phase": "decode",
    "plan.tensor_parallel": 4,
    "plan.pipeline_parallel": 2,
    "plan.data_parallel": 1,
    "plan.micro_batches": 2,
    "plan.expert_parallel": 4,
    "plan.dtype": "fp8",
    "plan.kv_dtype": "bf16",
    "plan.algorithm.all_reduce": "fastest",
    "plan.latent": "best",
    "plan.micro_batch": None,
    "plan.virtual_pipeline": None,
    "plan.context_parallel": None,
    "plan.context_exchange": "",
    "plan.schedule": "",
    "plan.order": "",
    "plan.fp8_recipe": "",
    "plan.sequence_parallel": False,
    "plan.zero": None,
    "plan.recompute": "",
    "plan.software": "",
    "scenario.batch": 64,
    "scenario.global_batch": None,
    "scenario.context": 4608,
    "scenario.expert_imbalance": 0,
    "scenario.capacity": 5120,
    "time_s": 0.0123,
}
TRAIN = DECODE | {
    "phase": "train",
    "plan.kv_dtype": "",
    "plan.algorithm.all_reduce": "fastest",
    "plan.latent": "",
    "plan.micro_batch": 2,
    "plan.virtual_pipeline": 3,
    "plan.context_parallel": 1,
    "plan.context_exchange": "ring",
    "plan.expert_tensor_parallel": None,
    "plan.schedule": "1f1b",
    "plan.order": "tp-cp-dp-pp",
    "plan.sequence_parallel": True,
    "plan.zero": 1,
    "plan.recompute": "full",
    "plan.software": "megatron",
    "scenario.batch": None,
    "scenario.global_batch": 1536,
    "scenario.capacity": None,
}
# Text that no reader of numbers takes for one: a value with its unit, a name, and signs that a shell knows.
TEXTS = st.builds(
    "{} {}".format, st.floats(0.001, 1e6), st.sampled_from(("TB/s", "W", "us", "it's", '$HOME "a"', "*;&|"))
)
VALUES = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | TEXTS
PATHS = st.sampled_from(("system.chip.power.limit", "system.nodes", "workload.layers", "system.tiers.node.size"))


def read(command: str) -> tuple[list[str], dict[str, Any]]:
    """The words before the first --set, and the settings as the command line takes them."""
    words = shlex.split(command)
    first = words.index("--set")
    assert set(words[first::2]) == {"--set"}
    return words[:first], overrides(words[first + 1 :: 2])


@settings(max_examples=150, deadline=None)
@given(
    changes=st.dictionaries(PATHS, VALUES), imbalance=st.sampled_from((0, 0.25)), row=st.sampled_from((DECODE, TRAIN))
)
def test_what_is_read_back_from_a_command_is_the_row_and_its_changes(
    changes: dict[str, Any], imbalance: float, row: dict[str, Any]
) -> None:
    row = row | {"scenario.expert_imbalance": imbalance}
    head, found = read(command_of(row, "dgx-h100", "deepseek-v3", changes))
    assert head == ["cosim", "estimate", row["phase"], "--system", "dgx-h100", "--workload", "deepseek-v3"]
    assert found == {**changes, **settings_of(row)}
    for path, value in changes.items():
        assert type(found[path]) is type(value)
    assert {path: row[path] for path in settings_of(row)} == settings_of(row)


@pytest.mark.parametrize("value", [np.float64(3.35e12), np.float64(650.0), np.int64(16), np.bool_(True)])
def test_a_number_of_numpy_is_written_as_a_number(value: np.generic) -> None:
    _, found = read(command_of(DECODE, "a", "b", {"system.chip.memory.dram.bandwidth": value}))
    assert found["system.chip.memory.dram.bandwidth"] == value.item()
    assert type(found["system.chip.memory.dram.bandwidth"]) is type(value.item())


@pytest.mark.parametrize("name", ["my systems/a b.yaml", "./it's.yaml", "$(date).yaml"])
def test_a_file_with_odd_signs_in_its_name_is_one_word(name: str) -> None:
    assert read(command_of(DECODE, name, name, {}))[0][3:] == ["--system", name, "--workload", name]


def test_every_degree_is_given_so_that_nothing_is_searched() -> None:
    for row in (DECODE, DECODE | {"phase": "prefill"}):
        assert {f"plan.{name}" for name in (*_DEGREES, "dtype", "kv_dtype")} <= set(settings_of(row))
    # In training micro-batches follow from the rest.
    degrees = set(_DEGREES) - {"micro_batches"}
    set_: dict[str, Any] = {
        "recompute_modules": "norms",
        "recompute_layers": 2,
        "optimizer": "muon",
        "optimizer_dtype": "bf16",
    }
    set_ |= {"offload_activations": 0.5, "offload_weights": 0.5, "offload_optimizer": 1.0}
    wide = settings_of(
        TRAIN
        | {"plan.context_parallel": 4, "plan.shard": 2, "plan.expert_tensor_parallel": 2}
        | {f"plan.{name}": value for name, value in set_.items()}
    )
    training = set(_TRAINING_ONLY) - {"schedule", "order", "fp8_recipe"}
    assert {f"plan.{name}" for name in (*degrees, *training, "dtype")} <= set(wide)
    # The schedule that is taken anyhow goes unsaid.
    assert "plan.schedule" not in wide
    assert "plan.order" not in wide
    assert "plan.fp8_recipe" not in wide
    assert "plan.fp8_recipe" not in settings_of(TRAIN | {"plan.fp8_recipe": "tensor"})
    assert settings_of(TRAIN | {"plan.fp8_recipe": "block"})["plan.fp8_recipe"] == "block"
    assert settings_of(TRAIN | {"plan.order": "tp-cp-pp-dp"})["plan.order"] == "tp-cp-pp-dp"
    assert settings_of(TRAIN | {"plan.schedule": "zb-h1"})["plan.schedule"] == "zb-h1"
    # Where a sequence is not shared out, nothing has to say how.
    assert not [name for name in settings_of(TRAIN) if "context_" in name]


def test_settings_by_hand() -> None:
    degrees = ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "dtype")
    shared = [*(f"plan.{name}" for name in degrees), "scenario.context"]
    serving = ["plan.micro_batches", "plan.kv_dtype", "scenario.batch"]
    training = ("micro_batch", "virtual_pipeline", "sequence_parallel", "zero", "recompute", "software")
    assert set(settings_of(DECODE)) == {*shared, *serving, "scenario.capacity"}
    assert set(settings_of(DECODE | {"phase": "prefill"})) == {*shared, *serving}
    assert set(settings_of(TRAIN)) == {*shared, *(f"plan.{name}" for name in training), "scenario.global_batch"}
    uneven = settings_of(DECODE | {"scenario.expert_imbalance": 0.5})
    assert set(uneven) - set(settings_of(DECODE)) == {"scenario.expert_imbalance"}


def test_a_command_by_hand() -> None:
    row = {**DECODE, "phase": "prefill"}
    changes = {"system.chip.memory.dram.bandwidth": "4 TB/s", "workload.tied_embeddings": True, "system.nodes": 2}
    assert command_of(row, "dgx-h100", "llama-3.1-8b", changes) == (
        "cosim estimate prefill --system dgx-h100 --workload llama-3.1-8b "
        "--set 'system.chip.memory.dram.bandwidth=4 TB/s' --set workload.tied_embeddings=true --set system.nodes=2 "
        "--set plan.tensor_parallel=4 --set plan.pipeline_parallel=2 --set plan.data_parallel=1 "
        "--set plan.expert_parallel=4 --set plan.dtype=fp8 --set plan.micro_batches=2 --set plan.kv_dtype=bf16 "
        "--set scenario.batch=64 --set scenario.context=4608"
    )


def test_groups_and_what_is_updated_are_named_where_they_are_not_usual() -> None:
    usual = settings_of(TRAIN | {"plan.shard": None, "scenario.updates": "all", "scenario.adapter_rank": None})
    assert not {"plan.shard", "scenario.updates", "scenario.adapter_rank"} & set(usual)
    asked = {"plan.shard": 8, "scenario.updates": "adapters", "scenario.adapter_rank": 4}
    assert usual | asked == settings_of(TRAIN | asked)


def test_the_format_of_weights_is_written_where_it_is_another() -> None:
    assert "plan.weights_dtype" not in settings_of(DECODE)
    assert settings_of({**DECODE, "plan.weights_dtype": "int4"})["plan.weights_dtype"] == "int4"
    assert "plan.weights_dtype" not in settings_of({**DECODE, "plan.weights_dtype": ""})
