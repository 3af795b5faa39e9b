"""What a hybrid of state-space and attention layers says beside a transformer, and its arrays.

Every layer of a hybrid is one block behind one norm: M a Mamba-2 mixer, * attention, - a dense feed-forward, E a routed
one, in the order that its maker's `hybrid_override_pattern` gives. Layers of a kind are spread over all stages alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from cosim.records import Array, array
from cosim.schema import Frozen

KINDS = {"mamba": "M", "attention": "*", "dense": "-", "routed": "E"}
HALF_BYTES, FULL_BYTES = 2.0, 4.0
Width = Annotated[int, Field(gt=0, le=10_000_000)]


class Mamba(Frozen):
    """The pattern of a hybrid's layers and the sizes of its Mamba-2 mixers."""

    pattern: Annotated[str, Field(pattern=r"^[M*E-]*M[M*E-]*$")]
    """A letter a layer; at least one M."""
    heads: Width
    head_dim: Width
    state: Width
    groups: Width = 1
    """Heads of a group share B and C."""
    kernel: Width = 4
    """Taps of the convolution over the sequence."""
    chunk: Width = 128
    """Tokens that the scan takes at once."""


@dataclass(frozen=True, slots=True)
class MambaArrays:
    """A hybrid as the engines see it: shares of the layers by kind, sizes of the mixers."""

    mamba: Array
    attention: Array
    dense: Array
    routed: Array
    heads: Array
    head_dim: Array
    state: Array
    groups: Array
    kernel: Array
    chunk: Array

    @property
    def inner(self) -> Array:
        """Width of a mixer."""
        return self.heads * self.head_dim

    @property
    def state_bytes(self) -> Array:
        """What a sequence keeps of one mixer, however long it is: states at fp32, inputs of the convolution at 16 bits.

        Tensor ranks share out its heads.
        """
        channels = self.inner + 2.0 * self.groups * self.state
        return FULL_BYTES * self.inner * self.state + HALF_BYTES * channels * (self.kernel - 1.0)


def lower_mamba(mamba: Mamba, arrays: Mapping[str, Array]) -> MambaArrays:
    """Arrays of a hybrid with its overrides (paths are mamba.<size>)."""
    shares = {kind: array(mamba.pattern.count(letter) / len(mamba.pattern)) for kind, letter in KINDS.items()}
    names = ("heads", "head_dim", "state", "groups", "kernel", "chunk")
    return MambaArrays(**shares, **{name: arrays.get(f"mamba.{name}", array(getattr(mamba, name))) for name in names})
