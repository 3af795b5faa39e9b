"""Optimizers as data: what each keeps of a parameter, and what its update costs.

One file each in `accelerators/optimizers`. A stack of training software says which one it runs and whether an fp32
copy of the weight is kept beside it; `plan.optimizer` and `plan.optimizer_dtype` choose another:

    state of a parameter = master weight + tensors x bytes of the state's format (+ row and column means of a matrix)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from cosim.datum import Capacity, Count, Datum, Quantity
from cosim.errors import SpecError
from cosim.hardware.load import described
from cosim.mapping.plan import Plan, StateDtype
from cosim.mapping.software import Software, SoftwareArrays, load_software, lower_software
from cosim.records import Array, array
from cosim.schema import Frozen, Source, validated

Tensors = Annotated[Datum, Quantity("", open_low=False, whole=True)]
Work = Annotated[Datum, Quantity("FLOP", open_low=False)]
MEAN_BYTES = 4.0
"""Of a row's or column's mean: kept in fp32 whatever the format of whole tensors."""


class Rule(Frozen):
    """What is kept and done of each parameter."""

    tensors: Tensors
    """State of the weight's own shape, beside a master weight."""
    factored: bool = False
    """Whether a matrix has a mean of each row and column too; what is no matrix has a whole tensor instead."""
    gradient_reads: Count
    """How often the update reads the gradient, the norm for clipping among them."""
    flop: Work
    """Elementwise FLOP of a parameter."""


class Optimizer(Frozen):
    """How weights are updated."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    weights: Rule
    others: Rule | None = None
    """Of embedding, head, norms and biases where these differ from matrices of layers."""
    iterations: Count | None = None
    """Newton-Schulz iterations on the momentum of every matrix of a layer; None: it is not orthogonalised."""
    state_bytes: dict[StateDtype, Capacity] = Field(min_length=1)
    """Of one number of a state tensor in each format, its share of a block's scale included."""


@dataclass(frozen=True, slots=True)
class RuleArrays:
    """A rule as the engines see it; `state` are bytes of a parameter's tensors beside its master weight."""

    state: Array
    tensor: Array
    """Bytes of one tensor's number."""
    factored: bool
    gradient_reads: Array
    flop: Array


@dataclass(frozen=True, slots=True)
class UpdateArrays:
    """An optimizer as the engines see it; `iterations` is 0 where nothing is orthogonalised."""

    name: str
    dtype: str
    matrices: RuleArrays
    others: RuleArrays
    iterations: Array
    master: Array
    """Bytes of the weight that is kept beside the one in use."""


def load_optimizer(name: str) -> Optimizer:
    """The optimizer called `name`, or in the file `name`. Raises SpecError."""
    data, chain = described(name, "optimizers")
    return validated(Optimizer, data, chain[0], chain[1:])


def planned_software(plan: Plan) -> SoftwareArrays:
    """The training software of a plan, with the optimizer that the plan asks for. Raises SpecError."""
    return optimized(load_software(plan.software), plan.optimizer, plan.optimizer_dtype)


def optimized(software: Software, optimizer: str | None, dtype: StateDtype | None = None) -> SoftwareArrays:
    """The software with the optimizer of this name and its state in `dtype`; None: its own. Raises SpecError."""
    arrays = lower_software(software)
    if optimizer is None and dtype is None:
        return arrays
    if software.master_bytes is None:
        hint = f"give master_bytes in {software.name}: what it keeps beside the moments"
        raise SpecError("is unknown", field="master_bytes", hint=hint)
    known = load_optimizer(optimizer or software.optimizer)
    return with_optimizer(arrays, known, dtype or software.optimizer_dtype, software.master_bytes.si)


def with_optimizer(
    software: SoftwareArrays, optimizer: Optimizer, dtype: StateDtype, master_bytes: float
) -> SoftwareArrays:
    """The software with another optimizer, whose state is kept in `dtype` beside a master weight of `master_bytes`.

    `optimizer_bytes` become those of a parameter of a matrix, without means of rows and columns. Raises SpecError for a
    format without bytes.
    """
    if dtype not in optimizer.state_bytes:
        hint = f"{optimizer.name} has {', '.join(optimizer.state_bytes)}"
        raise SpecError("has no bytes of this state", field="plan.optimizer_dtype", value=dtype, hint=hint)
    each = optimizer.state_bytes[dtype].si
    matrices = _lowered(optimizer.weights, each)
    others = matrices if optimizer.others is None else _lowered(optimizer.others, each)
    iterations = array(0.0 if optimizer.iterations is None else optimizer.iterations.si)
    update = UpdateArrays(optimizer.name, dtype, matrices, others, iterations, array(master_bytes))
    return replace(software, optimizer_bytes=master_bytes + matrices.state, update=update)


def _lowered(rule: Rule, each: float) -> RuleArrays:
    return RuleArrays(
        array(rule.tensors.si * each),
        array(each),
        rule.factored,
        array(rule.gradient_reads.si),
        array(rule.flop.si),
    )
