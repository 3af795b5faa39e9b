"""Run folders: parts come back as they were, nothing foreign is touched, files say what was computed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.engines.analytic import BREAKDOWN, Estimates
from cosim.errors import SpecError
from cosim.explore.compare import Block
from cosim.explore.die import chip_of, die_columns
from cosim.explore.rows import Text, columns
from cosim.explore.run import Inputs
from cosim.explore.store import (
    SCHEMA_VERSION,
    RunFolder,
    content_hash,
    host,
    read_run,
    stamp,
    write_json,
    write_results,
)
from cosim.mapping.legal import Verdict
from cosim.mapping.memory import HELD

Runs = list[tuple[Block, Estimates]]
_SCALARS = ("chips", "time", "tokens", "energy", "server_energy", "facility_energy", "power", "clock", "utilisation")
NAMES = st.text("aé€", max_size=3)


def arrays_of(result: Estimates) -> dict[str, np.ndarray]:
    """Every array of the estimates by name."""
    found = {"code": result.verdict.code, "shortfall": result.verdict.shortfall}
    found |= {name: getattr(result, name) for name in _SCALARS}
    found |= {f"breakdown.{name}": value for name, value in result.breakdown.items()}
    return found | {f"memory.{name}": value for name, value in result.memory.items()}


def started(out: Path, key: str = "k") -> RunFolder:
    folder = RunFolder(out)
    folder.start(key, resume=False)
    return folder


def test_a_hash_is_sha_256_of_the_text() -> None:
    # The example of FIPS 180-4.
    assert content_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash("abc") != content_hash("abc ")


def test_the_host_is_told_without_its_name() -> None:
    import platform

    told = host()
    assert set(told) == {"machine", "cpus", "python"}
    assert told["cpus"] >= 1
    assert platform.node() not in map(str, told.values())


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.floats(width=64, allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
    index=st.integers(0, 99_999),
)
def test_a_part_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], index: int
) -> None:
    folder = started(tmp_path_factory.mktemp("run") / "out")
    places = iter(range(100))

    def some() -> np.ndarray:
        return np.append(values, next(places))

    result = Estimates(
        verdict=Verdict(np.arange(len(values) + 1, dtype=np.int64), some()),
        breakdown={name: some() for name in BREAKDOWN},
        memory={name: some() for name in HELD},
        **{name: some() for name in _SCALARS},
    )
    assert folder.part(index) is None
    folder.keep(index, result)
    again = folder.part(index)
    assert again is not None
    for name, value in arrays_of(result).items():
        assert arrays_of(again)[name].tobytes() == value.tobytes(), name


def test_a_part_that_was_being_written_when_the_run_was_killed_does_not_count(tmp_path: Path, runs: Runs) -> None:
    folder = started(tmp_path / "out")
    folder.keep(0, runs[0][1])
    (folder.parts / "00001.draft").write_bytes(b"half of it")
    assert folder.part(0) is not None
    assert folder.part(1) is None


def test_only_the_same_key_is_taken_up_and_only_when_asked(tmp_path: Path, runs: Runs) -> None:
    for key, resume, kept in (("k", True, True), ("other", True, False), ("k", False, False)):
        started(tmp_path / "out", "k").keep(3, runs[0][1])
        again = RunFolder(tmp_path / "out")
        again.start(key, resume=resume)
        assert (again.part(3) is not None) is kept


def test_what_is_no_run_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "notes").write_text("a file")
    for name in ("mine", "notes"):
        with pytest.raises(SpecError, match=r"exists and is not a run folder.*name another --out"):
            started(tmp_path / name)
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.tex").write_text("more work")
    with pytest.raises(SpecError, match="exists and is not an unfinished run"):
        started(tmp_path / "new")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"mine", "mine/thesis.tex", "notes", "new.partial", "new.partial/thesis.tex"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpecError, match="cannot be written"):
        started(tmp_path / "file" / "out")


def test_a_finished_run_takes_the_place_of_an_older_one(tmp_path: Path, runs: Runs) -> None:
    for age in ("old", "new"):
        folder = started(tmp_path / "out", age)
        folder.keep(0, runs[0][1])
        write_json(folder.partial / "run.json", {"schema_version": SCHEMA_VERSION, "age": age})
        (folder.partial / age).touch()
        assert folder.finish() == tmp_path / "out"
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "new"}
    assert read_run(tmp_path / "out")["age"] == "new"


def test_results_hold_a_row_a_point_in_order_with_units_and_nulls(tmp_path: Path, runs: Runs, inputs: Inputs) -> None:
    some = runs[:2]
    dies = [die_columns(chip_of(inputs.systems[block.system])) for block, _ in some]
    rows = write_results(
        tmp_path,
        [
            columns(block.case, result, quality=block.quality, confidence="c", die=die)
            for (block, result), die in zip(some, dies, strict=True)
        ],
    )
    table = pq.read_table(tmp_path / "results.parquet")
    assert rows == table.num_rows == sum(len(result.time) for _, result in some)
    assert table.column_names[0] == "point_id"
    assert table["point_id"].to_pylist() == list(range(rows))
    expected = np.concatenate([result.time for _, result in some])
    found = table["time_s"].to_pylist()
    assert any(value is None for value in found)
    assert [math.nan if value is None else value for value in found] == pytest.approx(
        list(expected), rel=0, nan_ok=True
    )
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in table.schema}
    assert (units["time_s"], units["energy_j"], units["power_w"]) == ("s", "J", "W")
    assert units["tokens_per_s_per_chip"] == "token/s"
    assert {unit for name, unit in units.items() if name.startswith("breakdown_s.")} == {"s"}
    assert {unit for name, unit in units.items() if name.startswith("memory_bytes.")} == {"B"}
    assert (units["system"], units["mfu"], units["point_id"]) == ("", "", "")
    words = {field.name for field in table.schema if pa.types.is_dictionary(field.type)}
    assert words >= {"system", "workload", "phase", "plan.dtype", "limit", "limit_unit", "bottleneck", "quality"}
    assert table["workload"].to_pylist() == ["llama-3.1-8b"] * rows
    assert pa.types.is_boolean(table.schema.field("plan.sequence_parallel").type)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.lists(NAMES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_words_come_back_from_one_dictionary_whatever_names_each_part_has(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]]
) -> None:
    def text_of(words: list[str]) -> dict[str, Text]:
        few = tuple(sorted({*words, "unused"}))
        codes = np.array([few.index(word) for word in words], dtype=np.int32)
        # The second has a code for every point: names that are there twice, as units of limits are.
        return {"system": Text(codes, few), "limit_unit": Text(np.arange(len(words), dtype=np.int32), tuple(words))}

    folder = tmp_path_factory.getbasetemp()
    said = [word for part in parts for word in part]
    assert write_results(folder, [text_of(part) for part in parts]) == len(said)
    table = pq.read_table(folder / "results.parquet")
    for name in ("system", "limit_unit"):
        assert pa.types.is_dictionary(table[name].type)
        assert table[name].to_pylist() == table[name].to_numpy().tolist() == said
        for chunk in table[name].chunks:
            assert len(set(chunk.dictionary.to_pylist())) == len(chunk.dictionary)


@settings(max_examples=25, deadline=None)
@given(
    content=st.dictionaries(
        NAMES,
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers(-(10**12), 10**12) | NAMES,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_json_reads_back_equal_with_null_for_what_is_not_finite(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, content)

    def finite(node: object) -> object:
        if isinstance(node, dict):
            return {key: finite(value) for key, value in node.items()}
        if isinstance(node, list):
            return [finite(value) for value in node]
        return None if isinstance(node, float) and not math.isfinite(node) else node

    assert json.loads(path.read_text(encoding="utf-8")) == finite(content)


def test_json_takes_numbers_and_arrays_of_numpy(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": np.float64(1.5), "i": np.int64(3), "b": np.bool_(True), "a": np.arange(3.0)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1.5, "i": 3, "b": True, "a": [0, 1, 2]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, r"is not a run folder.*cosim run EXPERIMENT"),
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("{}", "was written by another version"),
        ('{"schema_version": 99}', r"was written by another version \(got 99\)"),
    ],
)
def test_a_folder_without_a_run_in_it_is_refused(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(SpecError, match=problem):
        read_run(tmp_path)


def test_a_binary_run_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="cannot be read as JSON"):
        read_run(tmp_path)


def test_the_stamp_names_versions_text_overrides_and_inputs() -> None:
    assert stamp("text", {"system.nodes": 2}, {"a.yaml": "12ab"}) == {
        "schema_version": SCHEMA_VERSION,
        "cosim_version": cosim.__version__,
        "experiment_text": "text",
        "overrides": {"system.nodes": 2},
        "inputs": {"a.yaml": "12ab"},
        "seed": None,
    }


@pytest.mark.parametrize("old", ["0123abc", f"{SCHEMA_VERSION - 1} k", f"{SCHEMA_VERSION + 1} k"])
def test_parts_of_another_version_are_not_taken_up(tmp_path: Path, runs: Runs, old: str) -> None:
    folder = started(tmp_path / "out")
    folder.keep(0, runs[0][1])
    (folder.partial / "key").write_text(old)
    with pytest.raises(SpecError, match=r"was begun by another version.*without --resume it begins anew"):
        RunFolder(tmp_path / "out").start("k", resume=True)
    assert folder.part(0) is not None
    assert started(tmp_path / "out").part(0) is None
