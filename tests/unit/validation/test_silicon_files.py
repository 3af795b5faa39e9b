"""Files of measured kernels: columns of all stacks, what may be absent, and files that are no tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.validation import silicon_files
from cosim.validation.silicon_files import columns_of, count_rows, files_of, read_rows, systems, tables_root

Write = Callable[..., Path]


def test_rows_of_all_stacks_are_one_after_the_other_with_their_stack(write_kernels: Write) -> None:
    write_kernels("chip", "a/1", "matmul", [{"latency": 1.0}, {"latency": 2.0, "gemm_dtype": "fp8"}])
    root = write_kernels("chip", "b/2", "matmul", [{"latency": 3.0, "m": 7}])
    rows = read_rows(files_of(root, "chip", "matmul"), "matmul")
    assert rows.numbers["latency"].tolist() == [1.0, 2.0, 3.0]
    assert rows.numbers["m"].tolist() == [64.0, 64.0, 7.0]
    assert rows.words["gemm_dtype"].tolist() == ["bfloat16", "fp8", "bfloat16"]
    assert rows.words["stack"].tolist() == ["a/1", "a/1", "b/2"]


def test_a_table_without_a_window_has_none_and_one_without_watts_does_not_say(write_kernels: Write) -> None:
    write_kernels("chip", "a/1", "decode", [{}])
    root = write_kernels("chip", "b/1", "decode", [{"window_size": 128, "power": 400.0}, {}])
    rows = read_rows(files_of(root, "chip", "decode"), "decode")
    assert rows.numbers["window_size"].tolist() == [0.0, 128.0, 0.0]
    assert np.isnan(rows.numbers["power"]).tolist() == [True, False, True]


def test_what_is_not_kept_is_counted_by_its_reason(write_kernels: Write) -> None:
    root = write_kernels("chip", "a/1", "matmul", [{"latency": float(value)} for value in range(4)])
    rows = read_rows(files_of(root, "chip", "matmul"), "matmul")
    rows.keep(rows.numbers["latency"] > 0.0, "low")
    rows.keep(rows.numbers["latency"] < 3.0, "high")
    rows.keep(rows.numbers["latency"] < 9.0, "never")
    assert (rows.numbers["latency"].tolist(), rows.left) == ([1.0, 2.0], {"low": 1, "high": 1})
    assert len(rows.words["stack"]) == 2


def test_systems_are_those_with_a_table_of_the_kind(write_kernels: Write) -> None:
    write_kernels("b", "s/1", "matmul", [{}, {}])
    root = write_kernels("a", "s/1", "decode", [{}])
    (root / "c").mkdir()
    assert (systems(root, "matmul"), systems(root, "decode"), systems(root, "prefill")) == (["b"], ["a"], [])
    assert (count_rows(root, "b", "matmul"), count_rows(root, "b", "decode")) == (2, 0)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such folder of tables"):
        systems(tmp_path / "none", "matmul")


def test_a_table_that_lacks_a_column_names_it(write_kernels: Write) -> None:
    root = write_kernels("chip", "a/1", "matmul", [{"k": None}])
    with pytest.raises(SpecError, match=r"gemm_perf.parquet: k: lacks a column"):
        read_rows(files_of(root, "chip", "matmul"), "matmul")


def test_a_file_that_is_no_table_and_a_column_of_words_for_numbers_are_refused(write_kernels: Write) -> None:
    root = write_kernels("chip", "a/1", "matmul", [{"m": "many"}])
    (path,) = files_of(root, "chip", "matmul")
    with pytest.raises(SpecError, match="cannot be read"):
        read_rows([path], "matmul")
    path.write_text("m,n,k\n", encoding="utf-8")
    with pytest.raises(SpecError, match="is no table"):
        columns_of(path)


def test_without_the_package_one_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silicon_files, "find_spec", lambda _: None)
    with pytest.raises(SpecError, match=r"--suite: measured kernel tables are not installed.*pip install 'cosim\[sil"):
        tables_root()


def test_the_package_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / silicon_files.PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was run')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert tables_root() == package / "systems" / "data"
