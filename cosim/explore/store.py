"""Run folders: parts that survive a kill, one Parquet of all points, one run.json; nothing half-written.

A run is built in `<out>.partial` and renamed when it is whole. A part is one evaluated block; it carries
the key of everything that it depends on, so that `--resume` never mixes two runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosim.engines.analytic import BREAKDOWN, Estimates
from cosim.errors import SpecError
from cosim.explore.metrics import unit_of
from cosim.explore.rows import Columns, Text, plain
from cosim.mapping.legal import Verdict
from cosim.mapping.memory import HELD
from cosim.version import __version__

SCHEMA_VERSION = 6
"""Of a run folder and of what its parts hold: rises when either gains or loses a column."""
_PLAIN = (
    "chips",
    "time",
    "tokens",
    "energy",
    "server_energy",
    "facility_energy",
    "power",
    "clock",
    "utilisation",
    "again_flop",
)


def content_hash(text: str) -> str:
    """SHA-256 of a text, as hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def host() -> dict[str, Any]:
    """The machine that ran it, without names: processor kind, cores, Python."""
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}


class RunFolder:
    """A run folder under construction. State is on disk: `start`, `part`, `keep`, `finish`."""

    def __init__(self, out: Path) -> None:
        if not out.absolute().name:
            raise SpecError("names no folder", field="--out", value=str(out), hint="for example runs/mine")
        self.out = Path(os.path.normpath(out.absolute())) if out.name in ("", "..") else out
        self.partial = self.out.with_name(self.out.name + ".partial")
        self.parts = self.partial / "parts"

    def start(self, key: str, *, resume: bool) -> None:
        """Makes the folder, or takes up the one that is there with the same key. Raises SpecError."""
        try:
            self._start(key, resume=resume)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SpecError(f"cannot be written: {reason}", file=self.out, hint="name another --out") from None

    def _start(self, key: str, *, resume: bool) -> None:
        if self.out.is_symlink() or (self.out.exists() and not (self.out / "run.json").is_file()):
            raise SpecError("exists and is not a run folder", file=self.out, hint="name another --out")
        stored = self.partial / "key"
        key = f"{SCHEMA_VERSION} {key}"
        if resume and stored.is_file():
            found = stored.read_text()
            if found == key:
                return
            version, _, _ = found.rpartition(" ")
            if version != str(SCHEMA_VERSION):
                hint = "without --resume it begins anew"
                value = f"its parts are of version {version or 'up to 5'}, not {SCHEMA_VERSION}"
                raise SpecError("was begun by another version", file=self.partial, value=value, hint=hint)
        ours = not self.partial.exists() or stored.is_file() or not any(self.partial.iterdir())
        if self.partial.is_symlink() or not (ours or self.parts.is_dir()):
            raise SpecError("exists and is not an unfinished run", file=self.partial, hint="name another --out")
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.parts.mkdir(parents=True)
        stored.write_text(key)

    def part(self, index: int) -> Estimates | None:
        """The stored estimates of block `index`, None where it was not finished."""
        path = self.parts / f"{index:05d}.npz"
        if not path.is_file():
            return None
        with np.load(path) as stored:
            arrays = dict(stored)
        return Estimates(
            verdict=Verdict(arrays["code"], arrays["shortfall"]),
            breakdown={name: arrays[f"breakdown.{name}"] for name in BREAKDOWN},
            memory={kind: arrays[f"memory.{kind}"] for kind in HELD},
            **{name: arrays[name] for name in _PLAIN},
        )

    def keep(self, index: int, result: Estimates) -> None:
        """Stores the estimates of block `index`, whole or not at all."""
        arrays = {"code": result.verdict.code, "shortfall": result.verdict.shortfall}
        arrays |= {name: getattr(result, name) for name in _PLAIN}
        arrays |= {f"breakdown.{name}": value for name, value in result.breakdown.items()}
        arrays |= {f"memory.{name}": value for name, value in result.memory.items()}
        path = self.parts / f"{index:05d}.npz"
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        draft.rename(path)

    def table_path(self, index: int) -> Path:
        """Where the table of part `index` lies when it is done."""
        return self.parts / f"{index:06d}.parquet"

    def finish(self) -> Path:
        """Gives the folder its name in place of an older run, then drops the parts."""
        if self.out.exists():
            older = self.out.with_name(self.out.name + ".older")
            shutil.rmtree(older, ignore_errors=True)
            self.out.rename(older)
            self.partial.rename(self.out)
            shutil.rmtree(older)
        else:
            self.partial.rename(self.out)
        shutil.rmtree(self.out / "parts")
        (self.out / "key").unlink()
        return self.out


def write_results(folder: Path, tables: list[Columns]) -> int:
    """results.parquet of all tables in order, `point_id` first, units in the metadata. Returns the rows."""
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name in tables[0]:
        parts = [table[name] for table in tables]
        columns[name] = _text_column(parts) if isinstance(parts[0], Text) else np.concatenate(parts)
    rows = sum(len(table["system"]) for table in tables)
    table = arrow_table({"point_id": np.arange(rows), **columns}, {})
    words = [name for name, values in columns.items() if not isinstance(values, np.ndarray)]
    pq.write_table(table, folder / "results.parquet", compression="zstd", use_dictionary=words)
    return rows


def arrow_table(columns: Mapping[str, Any], units: Mapping[str, str]) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """Columns as an Arrow table with the unit of each in its metadata; `units` of those that no result has."""
    import pyarrow as pa

    fields, arrays = [], []
    for name, values in columns.items():
        shown = _text_column([values]) if isinstance(values, Text) else values
        column = pa.array(shown, from_pandas=True) if isinstance(shown, np.ndarray) else shown
        unit = units.get(name) or unit_of(name)
        fields.append(pa.field(name, column.type, metadata={"unit": unit} if unit else None))
        arrays.append(column)
    return pa.table(arrays, schema=pa.schema(fields))


def write_part(path: Path, columns: Columns, units: Mapping[str, str]) -> None:
    """The table of one part, whole or not at all."""
    import pyarrow.parquet as pq

    draft = path.with_suffix(".draft")
    pq.write_table(arrow_table(columns, units), draft, compression="lz4")
    draft.rename(path)


def write_parts(folder: RunFolder, count: int) -> tuple[int, int]:
    """results.parquet of the tables of all parts in order, `point_id` first. Returns rows and feasible rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    writer, rows, feasible = None, 0, 0
    for index in range(count):
        table = pq.read_table(folder.table_path(index))
        ids = pa.array(np.arange(rows, rows + table.num_rows))
        table = table.add_column(0, "point_id", ids)
        if writer is None:
            writer = pq.ParquetWriter(folder.partial / "results.parquet", table.schema, compression="zstd")
        writer.write_table(table)
        rows += table.num_rows
        feasible += pc.sum(table["feasible"]).as_py() or 0
    if writer is not None:
        writer.close()
    return rows, feasible


def _text_column(parts: list[Text]) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """Words of all parts as one dictionary column."""
    import pyarrow as pa

    whole = Text.joined(parts)
    return pa.DictionaryArray.from_arrays(whole.codes, list(whole.names))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file with sorted, plain content; NaN is null."""
    path.write_text(json.dumps(_plain_tree(content), indent=1, allow_nan=False) + "\n")


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run folder. Raises SpecError where there is none or it is not readable."""
    path = folder / "run.json"
    if not path.is_file():
        raise SpecError("is not a run folder (it has no run.json)", file=folder, hint="cosim run EXPERIMENT makes one")
    try:
        content: Any = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError):
        raise SpecError("cannot be read as JSON", file=path, hint="run the experiment again") from None
    if not isinstance(content, dict):
        raise SpecError("does not hold a run", file=path, hint="run the experiment again")
    if content.get("schema_version") != SCHEMA_VERSION:
        found = content.get("schema_version")
        raise SpecError("was written by another version", file=path, value=found, hint="run the experiment again")
    run: dict[str, Any] = content
    return run


def stamp(text: str, overrides: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What identifies a run: versions, experiment text, overrides, hashes of every input."""
    return {
        "schema_version": SCHEMA_VERSION,
        "cosim_version": __version__,
        "experiment_text": text,
        "overrides": dict(overrides),
        "inputs": dict(inputs),
        "seed": None,
    }


def _plain_tree(node: Any) -> Any:  # noqa: ANN401  # any JSON
    if isinstance(node, Mapping):
        return {str(key): _plain_tree(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain_tree(value) for value in node]
    if isinstance(node, np.ndarray):
        return [_plain_tree(value) for value in node.tolist()]
    return plain(node)
