"""Fits of collectives: what was put in comes out, halves are kept apart, and rows that cannot carry it are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.records import array
from cosim.validation.cases import Case
from cosim.validation.collective import checked_rows, predicted
from cosim.validation.collective_file import calibrated_collectives
from cosim.validation.collective_fit import fit_collectives, log_ratios, shared_knobs

TRUTH = {
    "tiers.0.constants.protocols.bulk.start": 5e-6,
    "tiers.0.constants.protocols.bulk.hop": 0.6e-6,
    "tiers.0.efficiency": 0.55,
}
"""Of a system with one protocol: three constants."""
NAME = "asic-8"


def cases(count: int = 60, system: str = NAME) -> list[Case]:
    """Collectives as a system with other constants would take them."""
    random = np.random.default_rng(3)
    spec = load_system(NAME)
    blank = {"system": system, "accelerator": "asic-template", "ranks_per_node": ""}
    drawn = []
    for place in range(count):
        op = ("all_reduce", "all_gather", "reduce_scatter")[place % 3]
        values = {"op": op, "bytes": int(2 ** random.uniform(9, 29)), "ranks": int(random.choice([2, 4, 8]))}
        drawn.append(
            Case(f"r{place}", place + 2, {k: str(v) for k, v in {**blank, **values, "measured_s": 1.0}.items()})
        )
    known = {path: array(value) for path, value in TRUTH.items()}
    rows = {rows.op: iter(predicted(rows, spec, known)) for rows in checked_rows([_of(c, NAME) for c in drawn], spec)}
    return [_of(case, system, float(next(rows[case.values["op"]]))) for case in drawn]


def _of(case: Case, system: str, measured: float = 1.0) -> Case:
    return Case(case.id, case.line, {**case.values, "system": system, "measured_s": repr(measured)})


def written(path: Path, rows: list[Case]) -> Path:
    names = list(rows[0].values)
    path.write_text("\n".join([",".join(names), *(",".join(c.values[n] for n in names) for c in rows)]) + "\n")
    return path


def test_constants_that_were_put_in_come_out() -> None:
    fit = fit_collectives(load_system(NAME), cases())
    for path, value in TRUTH.items():
        assert fit.paths[path] == pytest.approx(value, rel=0.02), path
    assert (len(fit.fitted), len(fit.held_out)) == (30, 30)
    assert float(np.max(fit.held_out)) < 0.02


def test_shared_constants_of_a_library_are_fitted_once_for_all_tiers_that_name_it() -> None:
    knobs = {knob.name: knob.paths for knob in shared_knobs(load_system("l40s-8gpu-pcie4"))}
    assert knobs["nccl-pcie.protocols.LL.start"] == tuple(f"tiers.{t}.constants.protocols.LL.start" for t in range(3))
    assert {"pair.efficiency", "socket.bandwidth", "host.bandwidth"} <= set(knobs)
    assert "nccl-pcie.protocols.Simple.share" not in knobs  # the reference
    assert not [name for name in knobs if name.startswith("nccl-network")]  # beyond the node


def test_too_few_rows_are_refused_with_what_is_enough() -> None:
    with pytest.raises(SpecError, match="the rows carry 1 constants, not 3") as caught:
        fit_collectives(load_system(NAME), cases(20))
    assert "54 rows are enough" in str(caught.value.hint)


def test_ratios_are_nothing_where_the_model_is_right() -> None:
    spec, rows = load_system(NAME), cases(12)
    known = {path: array(value) for path, value in TRUTH.items()}
    assert log_ratios(checked_rows(rows, spec), spec, known) == pytest.approx(np.zeros(12), abs=1e-9)


def test_the_file_is_a_library_that_a_system_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "accelerators" / "collectives" / "ours.yaml"
    out.parent.mkdir(parents=True)
    found = calibrated_collectives(NAME, written(tmp_path / "c.csv", cases()), out=out)
    assert (found["rows"], found["file"]) == (60, str(out))
    assert found["held_out"]["median_abs_error"] < 0.01
    (tmp_path / "accelerators" / "systems").mkdir()
    monkeypatch.chdir(tmp_path)
    ours = tmp_path / "accelerators" / "systems" / "ours-8.yaml"
    text = Path(load_text()).read_text(encoding="utf-8")
    ours.write_text(text.replace("collectives: generic-fabric", "collectives: ours", 1), encoding="utf-8")
    bulk = load_system("ours-8").tiers[0].constants.protocols["bulk"]
    assert bulk.start.si == pytest.approx(5e-6, rel=0.02)
    assert bulk.start.kind == "measured"


def load_text() -> Path:
    from cosim import library

    return library.find("systems", NAME)


def test_rows_of_no_system_are_of_the_one_that_is_fitted(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", [_of(c, "", float(c.values["measured_s"])) for c in cases()])
    assert calibrated_collectives(NAME, path)["rows"] == 60


def test_what_cannot_be_calibrated_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", cases())
    out = tmp_path / "o.yaml"
    with pytest.raises(SpecError, match="is kept out of every fit"):
        calibrated_collectives("dgx-h200", path, out=out)
    with pytest.raises(SpecError, match="has no rows of this system") as caught:
        calibrated_collectives("dgx-h100", path, out=out)
    assert "it has asic-8" in str(caught.value.hint)
    slow = [_of(case, NAME, 1e3 * float(case.values["measured_s"])) for case in cases()]
    with pytest.raises(SpecError, match="no constants explain these rows"):
        calibrated_collectives(NAME, written(tmp_path / "slow.csv", slow), out=out)
    assert not out.exists()
