"""Reads the files of measured kernel tables: columns of all stacks, through pyarrow.

ROOT/<system>/<gemm|attention>/<stack>/<version>/<op>_perf.parquet
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.records import Array

PACKAGE = "aiconfigurator_core"
FORMATS_OF = {
    "matmul": ("gemm_dtype",),
    "prefill": ("attn_dtype", "kv_cache_dtype"),
    "decode": ("attn_dtype", "kv_cache_dtype"),
}
"""Columns that hold the formats, by kind."""
KERNEL = "kernel_source"
_FILES = {
    "matmul": ("gemm", "gemm"),
    "prefill": ("attention", "context_attention"),
    "decode": ("attention", "generation_attention"),
}
_ATTENTION = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")
_NUMBERS = {"matmul": ("m", "n", "k", "latency"), "prefill": _ATTENTION, "decode": _ATTENTION}
_ABSENT = {"window_size": 0.0, "power": np.nan}
"""Columns that some tables have, and what others mean by their absence."""
Mask = NDArray[np.bool_]


@dataclass
class Rows:
    """Rows of all stacks: numbers, words and the stack by name, and what has been left out of them so far."""

    numbers: dict[str, Array]
    words: dict[str, NDArray[np.str_]]
    left: dict[str, int] = field(default_factory=dict)

    def keep(self, kept: Mask, reason: str) -> None:
        """Leaves out the rows that are not kept."""
        lost = int(np.sum(~kept))
        if lost:
            self.left[reason] = self.left.get(reason, 0) + lost
            self.numbers = {name: values[kept] for name, values in self.numbers.items()}
            self.words = {name: values[kept] for name, values in self.words.items()}


def tables_root() -> Path:
    """Folder of the installed tables. Raises SpecError that says what to install."""
    found = find_spec(PACKAGE)
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places:
        hint = "pip install 'cosim[silicon]' (the package aiconfigurator-core holds them)"
        raise SpecError("measured kernel tables are not installed", field="--suite", value="silicon", hint=hint)
    return Path(places[0]) / "systems" / "data"


def systems(root: Path, kind: str) -> list[str]:
    """Systems under `root` with a table of `kind`, sorted. Raises SpecError for a root that is no folder."""
    if not root.is_dir():
        raise SpecError("no such folder of tables", file=root, hint="the installed package holds no tables")
    return sorted(folder.name for folder in root.iterdir() if files_of(root, folder.name, kind))


def count_rows(root: Path, system: str, kind: str) -> int:
    """Rows in the tables of a system, unread. Raises SpecError."""
    import pyarrow.parquet as pq

    files = [path for path in files_of(root, system, kind) if columns_of(path)]
    return sum(pq.read_metadata(path).num_rows for path in files)


def files_of(root: Path, system: str, kind: str) -> list[Path]:
    """The tables of a system and kind: matmul, prefill or decode; one for each release of each stack."""
    family, op = _FILES[kind]
    return sorted((root / system / family).glob(f"*/*/{op}_perf.parquet"))


def columns_of(path: Path) -> Sequence[str]:
    """Names of the columns of a table. Raises SpecError for a file that is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise SpecError(f"is no table: {error}", file=path) from None
    return names


def read_rows(files: Sequence[Path], kind: str) -> Rows:
    """The rows of every stack, with the stack as a word. Raises SpecError naming file and column."""
    parts = [_part(path, kind) for path in files]
    numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers}
    words = {name: np.concatenate([part.words[name] for part in parts]) for name in parts[0].words}
    return Rows(numbers, words)


def _part(path: Path, kind: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    has, named = columns_of(path), (*FORMATS_OF[kind], KERNEL)
    missing = [name for name in (*_NUMBERS[kind], *named) if name not in has]
    if missing:
        raise SpecError("lacks a column that the table needs", file=path, field=missing[0])
    numeric = (*_NUMBERS[kind], *(name for name in _ABSENT if name in has))
    try:
        table = pq.read_table(path, columns=[*numeric, *named])
        numbers = {name: _number(table, name) for name in numeric}
        words = {name: _word(table, name) for name in named}
    except (OSError, pa.ArrowException) as error:
        raise SpecError(f"cannot be read: {error}", file=path) from None
    for name, absent in _ABSENT.items():
        values = numbers.get(name, np.full(table.num_rows, np.nan))
        numbers[name] = np.where(np.isnan(values), absent, values)
    words["stack"] = np.full(table.num_rows, "/".join(path.parent.parts[-2:]))
    return Rows(numbers, words)


def _number(table: Any, name: str) -> Array:  # noqa: ANN401  # pyarrow ships no types
    import pyarrow as pa

    values: Array = table.column(name).cast(pa.float64()).to_numpy()
    return values


def _word(table: Any, name: str) -> NDArray[np.str_]:  # noqa: ANN401  # pyarrow ships no types
    """Text of a column; nothing is the empty word."""
    import pyarrow as pa

    coded = table.column(name).cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    words: NDArray[np.str_] = np.array(coded.dictionary.to_pylist() or [""])[coded.indices.to_numpy()]
    return words
