"""Measured collectives of the installed tables as cases: one row a system, operation, ranks and size.

ROOT/<system>/comm/<library>/<version>/<library>_perf.parquet; `message_size` counts elements, `latency` is in
milliseconds. The median over versions counts; rows of 16-bit elements are read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.load import usual_systems
from cosim.validation.cases import Case
from cosim.validation.silicon import ACCELERATORS
from cosim.validation.silicon_files import tables_root

LIBRARIES = ("nccl", "oneccl", "rccl")
BYTES = 2.0
"""Of an element of the rows that are read."""
DTYPE = "half"
_COLUMNS = ("op_name", "nccl_dtype", "num_gpus", "message_size", "latency")
Key = tuple[str, str, int, int]


def collective_cases(root: Path | None = None) -> list[Case]:
    """Cases of all systems under `root` (the installed tables). Raises SpecError for tables that are not there."""
    place = tables_root() if root is None else root
    usual = usual_systems()
    found: dict[Key, list[float]] = {}
    for folder, accelerator in ACCELERATORS.items():
        for path in _files(place, folder):
            for key, seconds in _rows(path, accelerator):
                found.setdefault(key, []).append(seconds)
    return [
        Case(
            f"co-{accelerator}-{op}-{ranks}-{size}",
            line,
            {
                "system": usual.get(accelerator, ""),
                "accelerator": accelerator,
                "op": op,
                "dtype": "fp16",
                "bytes": str(size),
                "ranks": str(ranks),
                "ranks_per_node": "",
                "measured_s": repr(float(np.median(seconds))),
                "versions": str(len(seconds)),
            },
        )
        for line, ((accelerator, op, ranks, size), seconds) in enumerate(sorted(found.items()), start=1)
    ]


def _files(root: Path, folder: str) -> list[Path]:
    return [
        path for name in LIBRARIES for path in sorted((root / folder / "comm" / name).glob(f"*/{name}_perf.parquet"))
    ]


def _rows(path: Path, accelerator: str) -> list[tuple[Key, float]]:
    """Keys and seconds of one table. Raises SpecError naming file and column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path, columns=list(_COLUMNS)).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise SpecError(f"cannot be read: {error}", file=path) from None
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise SpecError("lacks a column that the table needs", file=path, field=missing[0])
    return [
        ((accelerator, str(op), int(ranks), int(BYTES * float(size))), float(latency) / 1e3)
        for op, dtype, ranks, size, latency in zip(*(columns[name] for name in _COLUMNS), strict=True)
        if dtype == DTYPE
    ]
