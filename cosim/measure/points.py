"""What is timed: one frozen record a point, with its id, its columns and what its operands take.

The columns are those of the measured cases that `cosim validate` reads, so that a file needs no change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cosim.dtypes import bytes_per_element

ACTIVATION_BYTES = 2.0
"""Activations and results of a product in a narrow format are of 16 bits."""
Cell = str | int


def is_quantised(dtype: str) -> bool:
    """Whether a product in `dtype` is timed with the kernel that quantises its 16-bit activations."""
    return bytes_per_element(dtype) < ACTIVATION_BYTES


@dataclass(frozen=True, slots=True)
class Matmul:
    """C[m,n] = A[m,k] B[k,n], B stored by its columns as the weights of a linear layer are."""

    kind: ClassVar[str] = "matmul"
    dtype: str
    m: int
    n: int
    k: int
    warm: bool = True

    @property
    def tail(self) -> str:
        """What tells it from others of its kind."""
        return f"{self.dtype}-{self.m}x{self.n}x{self.k}-{state(warm=self.warm)}"

    @property
    def columns(self) -> dict[str, Cell]:
        """Its columns."""
        dims = {"m": self.m, "n": self.n, "k": self.k, "batch": 1}
        return {"dtype": self.dtype, **dims, "warm": int(self.warm)}

    @property
    def operand_bytes(self) -> float:
        """A, B and C, and A once more in its narrow format where it is quantised [B]."""
        m, n, k, width = float(self.m), float(self.n), float(self.k), bytes_per_element(self.dtype)
        if is_quantised(self.dtype):
            return m * k * (ACTIVATION_BYTES + width) + k * n * width + m * n * ACTIVATION_BYTES
        return (m * k + k * n + m * n) * width


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention kernel; the query is at the end of its context, sequences have equal lengths."""

    kind: ClassVar[str] = "attention"
    dtype: str
    phase: str
    batch: int
    query_len: int
    context_len: int
    heads: int
    kv_heads: int
    head_dim: int
    warm: bool = True

    @property
    def tail(self) -> str:
        """What tells it from others of its kind."""
        lengths = f"b{self.batch}-q{self.query_len}-c{self.context_len}"
        heads = f"h{self.heads}-{self.kv_heads}-d{self.head_dim}"
        return f"{self.dtype}-{self.phase}-{lengths}-{heads}-{state(warm=self.warm)}"

    @property
    def columns(self) -> dict[str, Cell]:
        """Its columns; the cache has the format of the arithmetic, there is no window, and the mask is causal."""
        return {
            "dtype": self.dtype,
            "kv_dtype": self.dtype,
            "phase": self.phase,
            "batch": self.batch,
            "query_len": self.query_len,
            "context_len": self.context_len,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "window": 0,
            "causal": 1,
            "warm": int(self.warm),
        }

    @property
    def operand_bytes(self) -> float:
        """Queries and results, keys and values [B]."""
        rows = 2.0 * self.query_len * self.heads + 2.0 * self.context_len * self.kv_heads
        return self.batch * self.head_dim * rows * bytes_per_element(self.dtype)


@dataclass(frozen=True, slots=True)
class Copy:
    """An elementwise kernel that reads `size` bytes and writes as many."""

    kind: ClassVar[str] = "copy"
    size: int
    warm: bool = True

    @property
    def tail(self) -> str:
        """What tells it from others of its kind."""
        return f"{self.size}-{state(warm=self.warm)}"

    @property
    def columns(self) -> dict[str, Cell]:
        """Its columns; `bytes` is what moves, both ways together."""
        return {
            "bytes": 2 * self.size,
            "read_bytes": self.size,
            "write_bytes": self.size,
            "warm": int(self.warm),
        }

    @property
    def operand_bytes(self) -> float:
        """Source and target [B]."""
        return 2.0 * self.size


@dataclass(frozen=True, slots=True)
class Launch:
    """Kernels of one element: `stream_gap`, `graph_gap` (from one to the next) or `lone_kernel`."""

    kind: ClassVar[str] = "launch"
    warm: ClassVar[bool] = True
    what: str
    runs: int
    """Kernels between the two events; no other kind fixes it."""

    @property
    def tail(self) -> str:
        """What tells it from others of its kind."""
        return self.what

    @property
    def columns(self) -> dict[str, Cell]:
        """Its columns."""
        return {"what": self.what, "kernels": self.runs}

    @property
    def operand_bytes(self) -> float:
        """One element [B]."""
        return 4.0


Point = Matmul | Attention | Copy | Launch
PREFIX = {"matmul": "mm", "attention": "at", "copy": "cp", "launch": "la"}


def state(*, warm: bool) -> str:
    """The word for where operands are before a run."""
    return "warm" if warm else "cold"


def id_of(point: Point, accelerator: str) -> str:
    """Name of a point's row, unlike any other's in its file."""
    return f"{PREFIX[point.kind]}-{accelerator}-{point.tail}"
