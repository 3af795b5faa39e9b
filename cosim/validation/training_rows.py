"""What a row of a measured training step says, and what is completed where it says nothing.

Blank columns are completed as the row's software does it (its `defaults`), and every completion is named:
    model        of the library; a plain GPT where dimensions alone are given
    degrees      data parallelism from the chips that are left; none at all: the stack's layout
    the rest     micro-batch, recompute, ZeRO stage, sequence parallelism by the stack's default
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cosim import library
from cosim.dtypes import EITHER, TRAINING_PRECISIONS
from cosim.mapping.plan import RECOMPUTES
from cosim.mapping.software import Software
from cosim.validation.cases import Case as Row
from cosim.validation.row_system import CannotAnswerError
from cosim.workload.load import load_model
from cosim.workload.model import Model

QUANTITIES = ("seconds_per_step", "tokens_per_s_per_chip", "samples_per_s")
UPDATES = {"": "all", "pretrain": "all", "sft": "all", "lora": "adapters", "forward-backward-only": "nothing"}
"""What a step of each task updates. Supervised fine-tuning is a step as any other."""
ADAPTERS = "-lora"
"""Ending of a workload's name that says what its task says already."""
PLAIN_GPT = "gpt-"
FP8_IN_BLOCKS = ("fp8_block", "fp8-block", "fp8_blockwise", "fp8-blockwise")
"""Words of tables for fp8 with a scale for each block."""
ARCHITECTURES = ("dense", "moe", "moe-mla", "encoder", "hybrid-mamba", "hybrid-moe")
ENCODER = "-pretraining"
"""Ending of the workload that is an encoder as it is trained, beside the network that serves."""
ADAMS = frozenset({"adam", "adamw"})
"""They keep the same: tables call one the other, and a stack's own bytes are nearer to what ran."""
Spec = TypeVar("Spec", bound=BaseModel)
_DIMS = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim")


@dataclass(frozen=True, slots=True)
class Degrees:
    """Ranks by kind as a row gives or implies them, None where that is open; `micro_batch` in sequences of a rank."""

    chips: int
    tensor: int | None
    pipeline: int | None
    data: int | None
    context: int | None
    micro_batch: int | None
    inner: bool = False
    """Whether ranks of experts, or pieces of stages, are left to a search."""

    @property
    def are_ranks(self) -> bool:
        """Whether every kind of rank is known."""
        return None not in (self.tensor, self.pipeline, self.data, self.context)

    @property
    def is_open(self) -> bool:
        """Whether something is left to a search."""
        return not self.are_ranks or self.micro_batch is None or self.inner


@dataclass(slots=True)
class Reader:
    """A row with the software that fills in what it leaves open; `completed` grows while it is read."""

    row: Row
    software: Software
    completed: list[str] = field(default_factory=list)

    def given(self, column: str) -> str:
        """Text of a column, blank where it is absent."""
        return self.row.values.get(column, "").strip()

    def whole(self, column: str, default: int | None = None) -> int:
        """A positive whole number, or `default` where the column is blank or absent. Raises CannotAnswerError."""
        text = self.given(column)
        if default is not None and not text:
            return default
        value = self.row.number(column)
        if value is None or value < 1 or value != round(value):
            raise CannotAnswerError(f"{column} {text} is not a positive whole number" if text else _missing(column))
        return int(value)

    def choice(self, column: str, known: Sequence[str]) -> str:
        """A word of a column that is one of `known`. Raises CannotAnswerError."""
        value = self.given(column)
        if value not in known:
            raise CannotAnswerError(f"{column} {value} is not modelled" if value else _missing(column))
        return value

    def complete(self, name: str, value: object) -> None:
        """Notes what was filled in."""
        self.completed.append(f"{name} {value}")

    def recompute(self) -> str:
        """Level of recompute: the row's, the nearest to the stack's own word, or the stack's default."""
        text, defaults = self.given("recompute"), self.software.defaults
        if text in defaults.recompute_modules:
            return "none"
        if text in defaults.recompute_words:
            near = str(defaults.recompute_words[text].value)
            self.complete("recompute", f"{near} for {text}")
            return near
        if not text and defaults.recompute is not None:
            self.complete("recompute", defaults.recompute.value)
            return str(defaults.recompute.value)
        return self.choice("recompute", RECOMPUTES)

    def recompute_modules(self) -> str:
        """Modules that the stack's own word for a part of a layer means; nothing for any other word."""
        text = self.given("recompute")
        known = self.software.defaults.recompute_modules.get(text)
        if known is None:
            return ""
        self.complete("recompute_modules", f"{known.value} for {text}")
        return known.value

    def sequence_parallel(self, tensor: int) -> bool:
        """Whether tensor ranks share out norms: the row's word, or the stack's default."""
        text, usual = self.choice("sp", ("", "0", "1")), self.software.defaults.sequence_parallel
        if text or usual is None or tensor == 1:
            return text == "1"
        self.complete("sp", int(usual.value))
        return usual.value

    def zero(self) -> int:
        """ZeRO stage; sharding that names ranks is stage 3."""
        text, usual = self.given("zero"), self.software.defaults.zero
        if not text and usual is not None:
            self.complete("zero", usual.value)
            return usual.value
        if text.endswith(":fsdp0"):
            # A switch that is off.
            off = 0 if usual is None else usual.value
            self.complete("zero", f"{off} for {text}")
            return off
        stage = "3" if "fsdp" in text else text.partition(":")[0]
        if stage not in {"", "0", "1", "2", "3"}:
            raise CannotAnswerError(f"sharding {text} is not modelled")
        return int(stage or 0)

    def optimizer(self) -> str | None:
        """The optimizer of the library that the row names; None where it names none, or the stack's own."""
        text, own = self.given("optimizer"), self.software.optimizer
        if not text or text == own or {text, own} <= ADAMS:
            return None
        if text not in library.names("optimizers"):
            raise CannotAnswerError(f"optimizer {text} is not modelled")
        return text

    def shard(self, node_chips: int) -> int | None:
        """Ranks that share out weights: N of `3:fsdpN`, the product of `ici_fsdp=N; ...`; -1 is the rest of a slice."""
        text = self.given("zero")
        if "=" in text:
            return _slices(text, min(node_chips, self.whole("num_accelerators")))
        stage, _, over = text.partition(":fsdp")
        if not over or over == "0":
            return None
        if stage != "3" or not over.isdigit() or int(over) < 1:
            raise CannotAnswerError(f"sharding {text} says no number of ranks")
        return int(over)

    def degrees(self) -> Degrees:
        """Ranks by kind. Raises CannotAnswerError where they do not multiply to the chips, or nothing fills them in."""
        chips, unit = self.whole("num_accelerators"), self._units()
        zero = self.given("zero")
        layout, sharded = self.software.defaults.layout, "fsdp" in zero and not zero.endswith(":fsdp0")
        tensor, pipeline, context = self._degree("tp"), self._degree("pp"), self._degree("cp")
        searched = layout is not None and layout.value == "fastest" and not sharded
        if (tensor is None or pipeline is None) and not searched:
            if layout is None and not sharded:
                raise CannotAnswerError(_missing("tp" if tensor is None else "pp"))
            tensor, pipeline = tensor or 1, pipeline or 1
            self.completed += [f"{name} 1" for name in ("tp", "pp") if not self.given(name)]
        if context is None and not (searched and None in (tensor, pipeline)):
            context = 1
        data = self._degree("dp")
        if data is None and tensor is not None and pipeline is not None and context is not None:
            data = chips * unit // (tensor * pipeline * context)
            self.complete("dp", data)
        known = [degree for degree in (tensor, pipeline, context, data) if degree is not None]
        if len(known) == 4 and math.prod(known) != chips * unit:
            raise CannotAnswerError("tp x pp x cp x dp is not the number of accelerators")
        tensor, data, more = self._folded(tensor, data, unit)
        micro_batch = self._micro_batch(data, searched=layout is not None and layout.value == "fastest")
        inner = searched and self._leaves_inner(pipeline)
        micro_batch = None if micro_batch is None else micro_batch * more
        return Degrees(chips, tensor, pipeline, data, context, micro_batch, inner)

    def _leaves_inner(self, pipeline: int | None) -> bool:
        """Whether pieces of a pipeline's stages or ranks of experts are not said."""
        return bool(
            ((pipeline or 1) > 1 and not self.given("virtual_pp")) or (self.given("experts") and not self.given("ep"))
        )

    def _degree(self, column: str) -> int | None:
        return self.whole(column) if self.given(column) else None

    def _units(self) -> int:
        """Ranks of the stack's degrees that one chip holds."""
        units = self.software.defaults.ranks_per_chip
        return 1 if units is None else int(units.si)

    def _folded(self, tensor: int | None, data: int | None, unit: int) -> tuple[int | None, int | None, int]:
        """Degrees in chips where the stack counts parts of them, and how many micro-batches a chip then joins."""
        if unit == 1:
            return tensor, data, 1
        self.completed.append(f"{unit} ranks a chip as one")
        if tensor is not None and tensor % unit == 0:
            return tensor // unit, data, 1
        if data is not None and data % unit == 0:
            return tensor, data // unit, unit
        raise CannotAnswerError(f"neither tp nor dp is a multiple of the {unit} ranks of a chip")

    def _micro_batch(self, data: int | None, *, searched: bool) -> int | None:
        """Sequences of a micro-batch, None where a search may choose."""
        usual = self.software.defaults.micro_batch
        if self.given("micro_batch") or (usual is None and not searched):
            return self.whole("micro_batch")
        if usual is None:
            return None
        if usual.value != "whole":
            self.complete("micro_batch", usual.value)
            return int(usual.value)
        if data is None:
            return None
        share = max(self.whole("global_batch") // data, 1)
        self.complete("micro_batch", share)
        return share

    def pieces(self, pipeline: int | None) -> int:
        """Pieces of a stage; a model on one stage has nothing to interleave."""
        pieces = self.whole("virtual_pp", 1)
        if pieces > 1 and pipeline == 1:
            self.complete("virtual_pp", f"1 for {pieces} on one stage")
            return 1
        return pieces

    def fp8_recipe(self) -> str:
        """What has a scale in fp8: a block where the precision or the notes say so, else a tensor."""
        said = f"{self.given('precision')} {self.given('notes')}".lower()
        blocks = re.search(r"\bfp8[-_ ]block(wise)?\b", said) is not None
        return "block" if blocks and self.precision() == "fp8" else "tensor"

    def precision(self) -> str:
        """The row's format; fp8 in blocks is fp8 with a recipe."""
        text = self.given("precision")
        return "fp8" if text in FP8_IN_BLOCKS else text

    def formats(self, known: Sequence[str]) -> tuple[str, ...]:
        """Formats to answer in: the row's, or those of an open word that the chip has."""
        text = self.precision()
        if text not in EITHER:
            return (text,) if text in TRAINING_PRECISIONS else (self.choice("precision", TRAINING_PRECISIONS),)
        # Nothing is trained in 4 bits without the scales of blocks.
        able = tuple(dtype for dtype in EITHER[text] if dtype in known and dtype != "fp4")
        if not able:
            raise CannotAnswerError(f"the chip has no matrix rate in {text}")
        return able


def check(row: Row) -> None:
    """What the model does not cover, said before anything is built. Raises CannotAnswerError."""
    values = row.values
    if values.get("measured_quantity") not in QUANTITIES or (row.number("measured_value") or 0.0) <= 0.0:
        raise CannotAnswerError("measured quantity or value is unknown")
    if values.get("task", "pretrain") not in UPDATES:
        raise CannotAnswerError(f"task {values['task']} is not modelled yet")
    if values.get("arch", "dense") not in ("", *ARCHITECTURES):
        raise CannotAnswerError(f"architecture {values['arch']} is not trained yet")


def model_of(reader: Reader) -> Model:
    """The workload of the library with the row's dimensions, or a plain GPT of these."""
    row, name = reader.row, reader.given("workload")
    if reader.given("task") == "lora":
        name = name.removesuffix(ADAPTERS)
    if row.values.get("arch", "") == "encoder":
        name += ENCODER
    dims = {d: reader.whole(d) for d in _DIMS if reader.given(d)}
    vocab = reader.whole("vocab") if reader.given("vocab") else None
    length = reader.whole("seq_len")
    if name in library.names("workloads"):
        return _known(name, dims, vocab, length)
    named = f"workload {name or '(blank)'} is not in the library"
    if row.values.get("arch", "") in ("encoder", "hybrid-mamba", "hybrid-moe"):
        raise CannotAnswerError(named)
    if row.values.get("arch", "") in ("moe", "moe-mla"):
        raise CannotAnswerError(f"mixture of experts {name or '(blank)'} is not in the library")
    if name and not name.startswith(PLAIN_GPT):
        raise CannotAnswerError(f"{named} and its name is not that of a plain GPT")
    missing = [d for d in _DIMS if d not in dims]
    if missing:
        raise CannotAnswerError(f"{named} and {missing[0]} is not given")
    if dims["ffn"] != 4 * dims["hidden"]:
        raise CannotAnswerError(f"{named} and is no plain GPT")
    return _plain_gpt(reader, name, dims, vocab)


def _known(name: str, dims: dict[str, int], vocab: int | None, length: int) -> Model:
    known = load_model(name)
    # A table's ffn is the width of an expert where there are any, its head_dim of MLA a sum: the library knows.
    chosen = dims if known.experts is None else {name: dims[name] for name in dims if name == "layers"}
    if "heads" in chosen and known.kv_heads == known.heads:
        # Tables of models whose heads share no keys often leave kv_heads out.
        chosen.setdefault("kv_heads", chosen["heads"])
    chosen = chosen | ({} if vocab is None else {"vocab": vocab})
    longest = max(length, known.max_positions)
    return described(Model, **{**known.model_dump(), **chosen, "max_positions": longest})


def _plain_gpt(reader: Reader, name: str, dims: dict[str, int], vocab: int | None) -> Model:
    """Layers of a GPT with biases, learned positions and dropout."""
    usual = reader.software.vocabulary
    if vocab is None and usual is None:
        raise CannotAnswerError("the vocabulary is not given")
    if vocab is None and usual is not None:
        vocab = int(usual.si)
        reader.complete("vocab", vocab)
    reader.completed.append("plain GPT")
    return described(
        Model,
        name=name or "gpt",
        title=name or "GPT",
        source="row",
        **dims,
        vocab=vocab,
        gated=False,
        norm="layer",
        position="learned",
        max_positions=reader.whole("seq_len"),
        tied_embeddings=True,
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
        dropout=True,
    )


def described(kind: type[Spec], **fields: Any) -> Spec:  # noqa: ANN401  # whatever the description holds
    """The description, checked. Raises CannotAnswerError that names what is wrong with it."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CannotAnswerError(f"{where or kind.__name__.lower()} is not possible: {first['msg']}") from None


def _missing(column: str) -> str:
    return f"{column} is not given"


def _slices(text: str, slice_chips: int) -> int:
    """Ranks of `ici_fsdp=-1; dcn_fsdp_parallelism=2`: axes inside a slice, one of them maybe -1, times those beyond."""
    inside, beyond, rest = 1, 1, False
    for part in text.split(";"):
        axis, _, size = part.strip().partition("=")
        if "fsdp" not in axis or not size.lstrip("-").isdigit() or (int(size) < 1 and int(size) != -1):
            raise CannotAnswerError(f"sharding {text} is not modelled")
        if axis.startswith("dcn"):
            beyond *= int(size)
        elif size == "-1":
            rest = True
        else:
            inside *= int(size)
    return (slice_chips if rest else inside) * beyond
