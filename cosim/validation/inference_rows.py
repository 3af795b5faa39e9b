"""What a row of a measured inference run says, and what is completed where it says nothing.

system      the usual one of the chip
degrees     tensor parallelism over all chips; a degree beyond them counts parts of a chip
formats     a format that the chip multiplies in no unit, or that the stack only keeps weights in, is widened
cache       the stack's format for weights of 8 bits and fewer, else 16 bits
lengths     the mean lengths of the data set of an MLPerf task; 0.9 of nominal where a client draws them so
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosim.dtypes import DTYPES, EITHER, bytes_per_element, is_wide
from cosim.engines.case import Case
from cosim.engines.served import Demand
from cosim.hardware.lower import SystemArrays
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.serving import Serving, ServingArrays
from cosim.records import array
from cosim.validation.cases import Case as Row
from cosim.validation.inference_known import Known, known
from cosim.validation.inference_reader import Reader
from cosim.validation.inference_twins import WORKERS
from cosim.validation.mlperf_rows import BATCHES, as_run, fills, is_stream, passes
from cosim.validation.named import named_model, named_stack, stack_arrays
from cosim.validation.named import system as named_system
from cosim.validation.row_system import CannotAnswerError, Systems, row_system
from cosim.workload.model import ModelArrays

QUANTITIES = (
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "output_tokens_per_s",
    "input_tokens_per_s",
    "tokens_per_s",
    "samples_per_s",
)
RUNS = {"static_batch": "static", "max_concurrency": "in_flight", "offered QPS": "offered"}
FULL = "engine max"
"""How words begin that say as many sequences as the engine holds."""
FORMATS = {"fp16": "bf16", "bf16": "bf16", "fp32": "fp32", "tf32": "tf32", "fp4": "nvfp4", "": "bf16"}
BEYOND = 4.0
"""Most tokens of a run over the positions that its model states."""
WIDE = 8
"""Most tensor ranks of a mixture of experts that hold whole layers together where a row names no ranks of experts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A row as a case of phase `serve`, what is demanded of it, and how it was run."""

    run: str
    case: Case
    demand: Demand
    quantity: str
    completed: tuple[str, ...]
    items: float = 1.0
    """Passes of a network that make up a sample of the row."""
    prefill: PlanArrays | None = None
    """Plan of the pool that only prefills; the case is then of the pool that decodes."""
    workers: tuple[float, float] = (1.0, 1.0)
    """How many workers of each."""
    layouts: tuple[int, ...] = ()
    """Tensor degrees to choose from, the best of which a tuned run takes; none: as in the case."""
    batches: tuple[float, ...] = ()
    """Batches to choose from in the same way."""


def asked(row: Row, systems: Systems | None = None) -> Asked:
    """A row as what the engines are asked, with systems as their files say or as `systems` has them.

    Raises CannotAnswerError.
    """
    facts = known()
    row, told = as_run(row, facts)
    reader = Reader(row, list(told))
    quantity = reader.given("measured_quantity")
    if quantity not in QUANTITIES or (row.number("measured_value") or 0.0) <= 0.0:
        raise CannotAnswerError("measured quantity or value is unknown")
    model = named_model(reader.given("workload"))
    stack = _stack(reader, facts, model)
    run = _run(reader, model)
    chips = reader.degree("num_accelerators") or math.prod(reader.degree(name) or 1 for name in ("tp", "pp", "dp"))
    _, system = row_system(
        reader.given("system"),
        reader.given("accelerator"),
        chips,
        systems or named_system,
        reader.completed,
        roomy=False,
    )
    if reader.is_apart:
        return _apart(reader, (model, stack), system, chips)
    plan, layouts = _plan(reader, model, chips, run)
    system = _with_vectors(system, reader)
    dtype, stored, cache = _formats(reader, stack, facts, tuple(system.chip.matrix.peak))
    plan = replace(plan, dtype=dtype, kv_dtype=cache, weights_dtype=stored)
    scenario = _scenario(reader, facts, run)
    case = Case("serve", system, model, plan, scenario, stack=_engine(reader, facts, stack))
    demand = _demand(reader, facts, run, quantity)
    if not model.network:
        _needs_lengths(reader, quantity)
        longest, stated = float(demand.prompt + demand.output), float(model.max_positions)
        # Runs go a little beyond the positions that a model was made for, none many times.
        if longest > BEYOND * stated:
            raise CannotAnswerError(f"{longest:g} tokens are many times the model's {stated:g} positions")
    items, batches = 1.0, tuple[float, ...]()
    if model.network:
        items, batches = passes(row), tuple(each * float(plan.data) for each in BATCHES) if fills(row) else ()
        prompt = np.where(demand.prompt > 0.0, demand.prompt, 1.0)
        demand = replace(demand, prompt=prompt, output=array(1.0))
        # Batches that fill chips are queued: the host launches one behind another.
        case = replace(case, stack=replace(stack_arrays(stack.name), host_hidden=bool(batches)))
    return Asked(run, case, demand, quantity, tuple(reader.completed), items, layouts=layouts, batches=batches)


def _scenario(reader: Reader, facts: Known, run: str) -> ScenarioArrays:
    """Limits of a server scenario of a benchmark; none for all other runs."""
    one, task = array(1.0), facts.tasks.get(reader.given("workload"))
    ttft = tpot = math.inf
    if run == "limited" and task is not None:
        limits = task.limits(reader.given("notes"))
        ttft, tpot = limits.ttft_limit or math.inf, limits.tpot_limit or math.inf
        reader.complete("limits", f"{ttft:g} s and {tpot:g} s, held by the means")
    return ScenarioArrays(one, one, one, array(ttft), array(tpot))


def _apart(reader: Reader, parts: tuple[ModelArrays, Serving], system: SystemArrays, chips: int) -> Asked:
    """A row whose prefill and decode have workers of their own; their numbers as said, or as the chips allow."""
    (model, stack), facts, one = parts, known(), array(1.0)
    plans, sizes = [], []
    for letter in ("P", "D"):
        own = reader.pool(letter)
        size = int(np.prod([own.degree(column) or 1 for column in ("tp", "pp", "dp")]))
        size = max(size, own.degree("ep") or 1)
        if model.is_moe and (own.degree("dp") or 1) > 1 and own.degree("ep") == 1:
            # Ranks of a worker that share out requests share out its experts.
            own = own.without("ep")
        plans.append(_plan(own, model, size, "in_flight")[0])
        sizes.append(size)
    workers = _workers(reader.given("notes"), sizes, chips)
    reader.complete("workers", f"{workers[0]:g} prefill, {workers[1]:g} decode")
    dtype, stored, cache = _formats(reader, stack, facts, tuple(system.chip.matrix.peak))
    fill, plan = (replace(each, dtype=dtype, kv_dtype=cache, weights_dtype=stored) for each in plans)
    most = array(np.inf)
    scenario = ScenarioArrays(one, one, one, most, most)
    case = Case("serve", system, model, plan, scenario, stack=stack_arrays(stack.name))
    quantity = reader.given("measured_quantity")
    demand = _demand(reader, facts, "in_flight", quantity)
    return Asked("apart", case, demand, quantity, tuple(reader.completed), 1.0, fill, workers)


def _workers(notes: str, sizes: Sequence[int], chips: int) -> tuple[float, float]:
    """Workers that prefill and that decode: as the notes say, else those that take all chips, few prefilling."""
    said = WORKERS.search(notes)
    if said:
        return float(said.group(1)), float(said.group(2))
    for prefills in range(1, chips // sizes[0] + 1):
        left = chips - prefills * sizes[0]
        if left > 0 and left % sizes[1] == 0:
            return float(prefills), left / sizes[1]
    raise CannotAnswerError(f"no number of workers of {sizes[0]} and {sizes[1]} chips makes {chips}")


def _with_vectors(system: SystemArrays, reader: Reader) -> SystemArrays:
    """A chip whose matrix units know no fp32 multiplies it on its vector units."""
    chip = system.chip
    if FORMATS.get(reader.given("weights_dtype"), "") != "fp32" or "fp32" in chip.matrix.peak:
        return system
    reader.complete("fp32", "on the vector units")
    matrix = replace(chip.matrix, peak={**chip.matrix.peak, "fp32": chip.vector_peak})
    return replace(system, chip=replace(chip, matrix=matrix))


def _run(reader: Reader, model: ModelArrays) -> str:
    """How the row was run; a network has no answers to run on with. Raises CannotAnswerError."""
    found = _run_said(reader)
    return "static" if model.network else found


def _run_said(reader: Reader) -> str:
    kind, mode = reader.given("batch_kind"), reader.given("mode")
    if kind in RUNS:
        return RUNS[kind]
    if kind.startswith(FULL):
        return "full"
    if kind:
        raise CannotAnswerError(f"batch_kind {kind} is not modelled")
    runs = {"static": "static", "offline": "full", "server": "full"}
    if reader.given("workload") in known().tasks:
        runs["server"] = "limited"
    return runs.get(mode) or _unknown("mode", mode)


def _unknown(column: str, text: str) -> str:
    raise CannotAnswerError(f"{column} {text or '(blank)'} is not modelled")


def _demand(reader: Reader, facts: Known, run: str, quantity: str) -> Demand:
    """Lengths and requests in flight. Raises CannotAnswerError."""
    prompt, output = reader.number("input_len"), reader.number("output_len")
    task, beams = facts.tasks.get(reader.given("workload")), 1
    if task is not None and prompt is None and output is None and not reader.given("batch_kind"):
        prompt, output = task.at(0.9 if is_stream(reader.row) else 0.5)
        reader.complete("lengths", f"{prompt:g} in, {output:g} out, of the data set")
        beams = task.beams
    client = facts.client(reader.row)
    if client is not None:
        prompt, output = (None if each is None else each * client.lengths for each in (prompt, output))
    batch = reader.number("batch")
    if batch is None and run in ("static", "in_flight"):
        if run != "static":
            raise CannotAnswerError("batch is unknown")
        batch = 1.0
        reader.complete("batch", 1)
    if beams > 1:
        # Beams decode side by side: a batch has as many more sequences, a server makes as many more tokens.
        batch, output = (batch and batch * beams, output) if run == "static" else (batch, (output or 1.0) * beams)
        reader.complete("beams", beams)
    rate = math.inf if reader.given("offered_qps") == "inf" else reader.number("offered_qps") or math.nan
    if quantity == "ttft_s" and output is None:
        output = 1.0
    return Demand(
        array(prompt or 0.0),
        array(max(output or 1.0, 1.0)),
        array(math.nan if batch is None else batch),
        waves=array(math.inf if client is None else client.waves),
        rate=array(rate),
        requests=array(math.inf if client is None else client.requests),
        alike=client is not None and client.alike,
    )


def _needs_lengths(reader: Reader, quantity: str) -> None:
    """Refuses a row whose lengths are not said and that needs them. Raises CannotAnswerError."""
    said = any(each.startswith("lengths ") for each in reader.completed)
    if not said and not reader.given("input_len"):
        raise CannotAnswerError("input_len is unknown")
    if not said and not reader.given("output_len") and quantity not in ("ttft_s", "input_tokens_per_s"):
        raise CannotAnswerError("output_len is unknown")


def _stack(reader: Reader, facts: Known, model: ModelArrays) -> Serving:
    """The row's stack, or the engine beside it that runs models without a cache. Raises CannotAnswerError."""
    stack = named_stack(facts.stack(reader.row) or "other")
    if model.keeps_cache or stack.networks is None:
        return stack
    reader.complete("engine", stack.networks)
    return named_stack(stack.networks)


def _engine(reader: Reader, facts: Known, stack: Serving) -> ServingArrays:
    """The stack as the engines see it; without its front end where the load generator calls the engine itself."""
    found, client = stack_arrays(stack.name), facts.client(reader.row)
    if client is None or not client.in_process:
        return found
    return replace(found, request_start=array(0.0), request_steps=array(0.0))


def _plan(reader: Reader, model: ModelArrays, chips: int, run: str) -> tuple[PlanArrays, tuple[int, ...]]:
    """Degrees of the row; tensor degrees to choose from where it names none. Raises CannotAnswerError."""
    tensor, pipeline, expert, data = (reader.degree(column) for column in ("tp", "pp", "ep", "dp"))
    layouts: tuple[int, ...] = ()
    if tensor is None and data is None and pipeline is None:
        degrees = [d for d in (1, 2, 4, 8) if chips % d == 0 and d <= chips and float(model.heads) % d == 0]
        layouts = (1,) if model.network else tuple(degrees)
        tensor = layouts[-1]
        reader.complete("tp", "of the fastest plan" if len(layouts) > 1 else tensor)
    pipeline = pipeline or 1
    tensor = chips // pipeline if tensor is None else tensor
    if tensor * pipeline > chips:
        # A degree that counts parts of a chip.
        parts = max(round(tensor * pipeline / chips), 1)
        tensor = max(tensor // parts, 1)
        reader.complete("tp", f"{tensor} chips of {parts} ranks each")
    if model.network:
        if max(tensor, pipeline) > 1 and reader.given("tp"):
            raise CannotAnswerError("a network of layers is not split over chips")
        tensor = pipeline = 1
    if data is None and not layouts and not model.network and chips // (tensor * pipeline) > 1:
        data = chips // (tensor * pipeline)
        reader.complete("dp", data)
    shared = data is not None and data > 1
    replicas = max(chips // (tensor * pipeline), 1) if shared or layouts or model.network else 1
    if model.is_moe and "attention data parallelism" in reader.given("notes") and not shared:
        replicas, tensor, expert = tensor, 1, tensor
        reader.complete("attention", f"data parallel over {replicas}")
    if model.is_moe and tensor > WIDE and not shared and (expert or 1) == 1:
        # So wide a group shares out requests: attention of whole sequences on each rank, experts over all of them.
        replicas, tensor, expert = tensor, 1, tensor
        reader.complete("attention", f"data parallel over {replicas}")
    ranks = min(expert or 1, int(model.experts)) if model.is_moe else 1
    if shared and model.is_moe and not expert:
        ranks = replicas * tensor
    # As many micro-batches as stages keep them all at work; a batch of fewer sequences goes through as one.
    batch = reader.number("batch") or 1.0
    return (
        PlanArrays(
            tensor=array(tensor),
            pipeline=array(pipeline),
            data=array(replicas),
            micro_batches=array(1.0 if run == "static" and batch < pipeline else pipeline),
            dtype="bf16",
            kv_dtype="bf16",
            all_reduce="fastest",
            expert=array(ranks),
        ),
        layouts if len(layouts) > 1 else (),
    )


def _formats(reader: Reader, stack: Serving, facts: Known, peaks: tuple[str, ...]) -> tuple[str, str | None, str]:
    """Format of the products, of the weights where they are kept in another, of the cache. Raises CannotAnswerError."""
    text = reader.given("weights_dtype")
    asked_for = FORMATS.get(text, text)
    client = facts.client(reader.row)
    if not text and client is not None:
        tuned = [dtype for dtype in client.formats if dtype in peaks or dtype in stack.weight_only]
        asked_for = tuned[0] if tuned else asked_for
        reader.complete("weights_dtype", asked_for)
    if asked_for in EITHER:
        able = [dtype for dtype in EITHER[asked_for] if dtype in peaks]
        # The better of both is the narrower: no chip multiplies it more slowly.
        asked_for = min(able, key=bytes_per_element) if able else "fp8"
        reader.complete("weights_dtype", f"{asked_for} for {text}")
    if asked_for not in DTYPES:
        raise CannotAnswerError(f"weights_dtype {text} is not known")
    wide = "bf16" if "bf16" in peaks else "fp16" if "fp16" in peaks else "fp32"
    dtype, stored = asked_for, None
    if asked_for == "bf16":
        dtype = wide
    elif asked_for in stack.weight_only or (asked_for not in peaks and not is_wide(asked_for)):
        dtype, stored = wide, asked_for
        reader.complete("products", f"{wide} of weights in {asked_for}")
    if dtype not in peaks:
        raise CannotAnswerError(f"{reader.given('accelerator')} has no matrix rate in {dtype}")
    cache = reader.given("kv_dtype")
    if not cache:
        narrow = bytes_per_element(stored or dtype) <= 1.0
        cache = str(stack.kv_dtype) if narrow and stack.kv_dtype is not None else "bf16"
        reader.complete("kv_dtype", cache)
    cache = FORMATS.get(cache, cache)
    if cache not in DTYPES:
        raise CannotAnswerError(f"kv_dtype {reader.given('kv_dtype')} is not known")
    return dtype, stored, "bf16" if cache in ("fp32", "tf32") else cache
