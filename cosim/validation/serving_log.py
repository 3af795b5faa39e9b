"""A request log of a server and the header beside it: what was served, on what, with which settings.

The log is a CSV of requests; `NAME.header.json` beside `NAME.csv` names chip, system, workload, degrees, engine and
settings of its scheduler. Fields that are not known here are passed over; settings of scheduler and cache that the
replay does not follow are told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from cosim import documents, library
from cosim.dtypes import DTYPES, bytes_per_element, is_wide
from cosim.errors import SpecError, nearest
from cosim.explore.serving.serve_file import Deployment
from cosim.hardware.load import load_system, usual_systems
from cosim.hardware.lower import lower_chip
from cosim.mapping.plan import Degree
from cosim.mapping.serving import load_serving
from cosim.schema import Frozen, validated
from cosim.validation.cases import Case
from cosim.validation.faults import LARGEST
from cosim.validation.inference_rows import FORMATS

AS_MODELLED: dict[str, tuple[object, ...]] = {
    "policy": ("fcfs",),
    "enable_prefix_caching": (False,),
    "scheduler_reserve_full_isl": (True,),
    "max_num_partial_prefills": (1,),
    "long_prefill_token_threshold": (0,),
}
"""Settings that are as every replay has them at these values: first come first served, no text known to be shared, room
for whole prompts at admission, one prompt cut in a step, wherever the budget ends."""
BATCHINGS = {True: "chunked", False: "prefill_first"}
"""With prompts in pieces beside answers, or whole ones first."""
RESTATED = ("note", "num_kv_tokens")
"""Words for people, and tokens of the blocks that are given."""


class _Read(Frozen):
    """Part of a header: what is not known is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class _Settings(_Read):
    """Settings of an engine; those that are not fields here are kept, to be told as not modelled."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


class LogScheduler(_Settings):
    """Settings as the engine calls them; null is the engine's default."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    enable_chunked_prefill: bool | None = None
    async_scheduling: bool | None = None
    """The host schedules a step while the chip works on the one before."""


class LogCache(_Settings):
    """Blocks of the cache of one engine, as it counted them."""

    num_gpu_blocks: int | None = None
    block_size: int | None = None
    gpu_memory_utilization: float | None = None


class LogHeader(_Read):
    """What was served with what."""

    name: str
    accelerator: str
    system: str = ""
    workload: str
    num_accelerators: Annotated[int, Field(ge=1)] = 1
    tp: Degree = 1
    pp: Degree = 1
    ep: Degree = 1
    dp: Degree = 1
    engine: str
    weights_dtype: str = "bf16"
    kv_dtype: str = "bf16"
    scheduler: LogScheduler = LogScheduler()
    kv_cache: LogCache = LogCache()


def header_path(log: Path) -> Path:
    """Where the header of a log lies."""
    return log.with_name(f"{log.stem}.header.json")


def read_header(log: Path) -> LogHeader:
    """The header of a log. Raises SpecError where there is none or it lacks something."""
    document = documents.read(header_path(log))
    return validated(LogHeader, document.data, document)


def deployment_of(header: LogHeader) -> tuple[Deployment, list[str]]:
    """The deployment that a header describes, and what was completed. Raises SpecError."""
    completed: list[str] = []
    stack = header.engine.split()[0].lower() if header.engine.split() else ""
    known = library.names("serving")
    if stack not in known:
        raise SpecError(
            "is no serving stack of the library", field="engine", value=header.engine, hint=nearest(stack, known)
        )
    system = header.system
    if system not in library.names("systems"):
        usual = usual_systems().get(header.accelerator)
        if usual is None:
            raise SpecError("is not in the library, nor a system of its chip", field="system", value=system)
        completed.append(f"system {usual} in place of {system or '(blank)'}")
        system = usual
    settings, cache = header.scheduler, header.kv_cache
    scheduler = {
        "max_sequences": settings.max_num_seqs,
        "token_budget": settings.max_num_batched_tokens,
        "max_context": settings.max_model_len,
        "memory_share": cache.gpu_memory_utilization,
        "block_tokens": cache.block_size,
        "batching": None if settings.enable_chunked_prefill is None else BATCHINGS[settings.enable_chunked_prefill],
    }
    plan = {
        "tensor_parallel": header.tp,
        "pipeline_parallel": header.pp,
        "data_parallel": _ranks(header, completed),
        "expert_parallel": header.ep,
        **_formats(header, system, stack, completed),
    }
    said = {name: value for name, value in scheduler.items() if value is not None}
    data = {"system": system, "workload": header.workload, "stack": stack, "plan": plan, "scheduler": said}
    return validated(Deployment, {**data, "routing": "least_loaded"}), completed


def _ranks(header: LogHeader, completed: list[str]) -> int:
    """Data ranks: those of the header, or where it says one as many as its chips hold; what is filled in is told."""
    # Ranks that share out experts beyond the tensor ranks are one replica.
    together = max(header.ep // header.tp, 1)
    least = header.tp * header.pp * together
    ranks = header.dp
    if header.dp == 1 and header.num_accelerators >= least:
        ranks = header.num_accelerators // least * together
    if ranks != header.dp:
        completed.append(f"data ranks {ranks} on {header.num_accelerators} chips")
    used = header.tp * header.pp * max(ranks, together)
    if used > header.num_accelerators:
        completed.append(f"{used} chips in place of {header.num_accelerators}")
    elif used < header.num_accelerators:
        completed.append(f"{header.num_accelerators - used} of {header.num_accelerators} chips idle")
    return ranks


def _formats(header: LogHeader, system: str, stack: str, completed: list[str]) -> dict[str, str]:
    """Formats of products, weights and cache; one that the chip does not multiply is widened, and told.

    Of 16 bits the chip has one or the other, or neither: then it multiplies in fp32.
    """
    chip = lower_chip(load_system(system).chip)
    peaks = chip.matrix.peak
    asked, kept = (FORMATS.get(word, word) for word in (header.weights_dtype, header.kv_dtype))
    wide = next((dtype for dtype in ("bf16", "fp16", "fp32") if dtype in peaks), "bf16")
    formats = {"dtype": asked, "kv_dtype": "bf16" if kept in ("fp32", "tf32") else kept}
    if asked == "bf16":
        formats["dtype"] = wide
        if bytes_per_element(wide) > bytes_per_element(asked):
            completed.append(f"products {wide} in place of {header.weights_dtype}")
    elif asked in load_serving(stack).weight_only or (asked in DTYPES and asked not in peaks and not is_wide(asked)):
        formats |= {"dtype": wide, "weights_dtype": asked}
        completed.append(f"products {wide} of weights in {asked}")
    return formats


def not_modelled(header: LogHeader) -> list[str]:
    """Settings of the header, as `section.name value`, that the replay does not follow."""
    found = []
    for section, settings in (("scheduler", header.scheduler), ("kv_cache", header.kv_cache)):
        for name, value in (settings.model_extra or {}).items():
            if value is not None and name not in RESTATED and value not in AS_MODELLED.get(name, ()):
                found.append(f"{section}.{name} {json.dumps(value)}")
    return found


def request_fault(case: Case) -> str:
    """Why a line of the log says no request that can be replayed; empty where it says one."""
    for name, least in (("arrival", 0.0), ("input_len", 1.0), ("output_len", 1.0)):
        value = case.number(name)
        if value is None or not least <= value <= LARGEST or (name != "arrival" and value != round(value)):
            what = "a number" if name == "arrival" else "a whole number"
            return f"{name} is not {what} from {least:g}"
    return ""
