"""Which weights of a model a published quantised checkpoint holds narrow; all others stay at 16 bits.

Embedding, head, norms, biases and routers are wide in every one. A format that a model names no checkpoint of is
taken to hold every linear layer narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from cosim.errors import SpecError
from cosim.schema import Frozen
from cosim.workload.ops import Matmul
from cosim.workload.seq2seq import PREFIX

Part = Literal["attention", "attention_out", "dense", "experts", "shared_experts"]
"""Products of attention but its last (linear attention and an index included), its last, feed-forward layers of every
token, routed experts, experts of every token."""
Narrow = Mapping[str, tuple[Part, ...]]
"""Parts that are narrow, by format."""
WIDE = "bf16"
_FEED_FORWARD: Mapping[str, Part] = {"ffn": "dense", "expert": "experts", "shared": "shared_experts"}


class Checkpoint(Frozen):
    """What one published checkpoint holds in its format."""

    parts: tuple[Part, ...]
    source: str
    """The checkpoint, and where what it holds is written."""

    @model_validator(mode="after")
    def _once(self) -> Checkpoint:
        if not self.parts:
            raise SpecError("names no part", field="parts", hint="leave the format out: it holds every linear layer")
        for index, part in enumerate(self.parts):
            if part in self.parts[:index]:
                raise SpecError("is named twice", field=f"parts.{index}", value=part)
        return self


def part_of(op: Matmul) -> Part | None:
    """The part that a product belongs to; None where no checkpoint holds it narrow, or where it has no weights."""
    if op.activations or op.precision == "head" or op.group in ("embed", "head"):
        return None
    name = op.name.removeprefix(PREFIX)
    if op.group == "layer" and not name.startswith("ffn"):
        return "attention_out" if name in ("attention_out", "delta_out", "cross_out") else "attention"
    return _FEED_FORWARD.get(name.partition("_")[0])


def weights_dtype(op: Matmul, dtype: str, narrow: Narrow) -> str:
    """Format of a product's weights in a model served as `dtype`: that, or 16 bits where its checkpoint keeps them."""
    part = part_of(op)
    if dtype not in narrow:
        return WIDE if op.precision == "head" else dtype
    return dtype if part in narrow[dtype] else WIDE
