"""The command that makes a point again: every choice of a row written out, nothing left to a search."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from cosim.mapping.order import USUAL

_DEGREES = ("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "dtype")
_SERVING = {"plan": ("micro_batches", "kv_dtype"), "scenario": ("batch", "context")}
_TRAINING = {
    "plan": ("micro_batch", "virtual_pipeline", "sequence_parallel", "zero", "recompute", "software"),
    "scenario": ("global_batch", "context"),
}

_WHERE_SET = (
    "plan.weights_dtype",
    "plan.shard",
    "plan.expert_tensor_parallel",
    "plan.recompute_modules",
    "plan.recompute_layers",
    "plan.optimizer",
    "plan.optimizer_dtype",
    "scenario.adapter_rank",
    "scenario.bytes_per_sample",
)
"""What a row names only where it is used."""
_ABOVE_ZERO = ("plan.offload_activations", "plan.offload_weights", "plan.offload_optimizer")


def settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Plan and scenario of a row as overrides by path."""
    own = _TRAINING if row["phase"] == "train" else _SERVING
    names = [*(f"plan.{name}" for name in (*_DEGREES, *own["plan"])), *(f"scenario.{name}" for name in own["scenario"])]
    # A network has no format of a cache, and maybe no tokens.
    chosen = {name: row[name] for name in names if row[name] not in ("", None) and row[name] == row[name]}
    if row["phase"] == "decode":
        chosen["scenario.capacity"] = row["scenario.capacity"]
    for name, default in (("plan.algorithm.all_reduce", "fastest"), ("plan.latent", "best")):
        if row[name] not in ("", default):
            chosen[name] = row[name]
    if row["phase"] == "train" and row["plan.context_parallel"] > 1:
        chosen |= {name: row[name] for name in ("plan.context_parallel", "plan.context_exchange")}
    chosen |= {name: row[name] for name in _ABOVE_ZERO if row.get(name)}
    for name, usual in (("plan.schedule", "1f1b"), ("plan.order", USUAL), ("plan.fp8_recipe", "tensor")):
        if row["phase"] == "train" and row[name] not in ("", usual):
            chosen[name] = row[name]
    chosen |= {name: row[name] for name in _WHERE_SET if row.get(name) not in (None, "") and row[name] == row[name]}
    if row.get("scenario.updates", "") not in ("", "all"):
        chosen["scenario.updates"] = row["scenario.updates"]
    if row["scenario.expert_imbalance"]:
        chosen["scenario.expert_imbalance"] = row["scenario.expert_imbalance"]
    return chosen


def command_of(row: Mapping[str, Any], system: str, workload: str, changes: Mapping[str, Any]) -> str:
    """`cosim estimate` of a row of a result; `changes` are its overrides of system and workload by path."""
    chosen = {**changes, **settings(row)}
    words = ["cosim", "estimate", row["phase"], "--system", system, "--workload", workload]
    for path, value in chosen.items():
        words += ["--set", f"{path}={_text(value)}"]
    return shlex.join(words)


def _text(value: object) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    plain_value = value.item() if isinstance(value, np.generic) else value
    return repr(plain_value) if isinstance(plain_value, float) else str(plain_value)
