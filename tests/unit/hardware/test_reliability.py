"""Reliability as data: what the library holds, and what a file may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.reliability import NAME, load_reliability

CHIP_HOURS, NODE_HOURS = 16384 * 54 * 24, 2048 * 54 * 24
COUNTED = {"gpu": 196, "hbm": 72, "host": 14, "maintenance": 32, "nic": 7, "network": 35, "software": 63, "planned": 47}


def changed(tmp_path: Path, old: str, new: str) -> str:
    text = library.find("technology", NAME).read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return str(path)


def test_the_library_holds_what_was_counted() -> None:
    data = load_reliability()
    assert set(data.components) == set(COUNTED)
    assert sum(COUNTED.values()) == 466
    for name, count in COUNTED.items():
        part = data.components[name]
        hours = {"chip": CHIP_HOURS, "node": NODE_HOURS}[part.per]
        assert part.mtbf.si / 3600.0 == pytest.approx(hours / count, rel=1e-5), name
        low, high = part.mtbf.si_range
        assert low < part.mtbf.si < high


def test_only_the_planned_stop_is_planned_and_nothing_of_software_is_repaired() -> None:
    parts = load_reliability().components
    assert [name for name, part in parts.items() if part.planned] == ["planned"]
    assert {name for name, part in parts.items() if part.repair is None} == {"planned", "software"}


def test_what_nobody_verified_is_marked() -> None:
    data = load_reliability()
    for datum in (data.detection, data.job_start, data.spare_share, data.snapshot_bandwidth):
        assert "unverified" in datum.source
        assert datum.low is not None
        assert datum.high is not None
    assert "unverified" not in data.components["gpu"].mtbf.source


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value: 108335, unit: h", "value: 0, unit: h", "mtbf"),
        ("value: 108335, unit: h", "value: 108335, unit: GB", "unit"),
        ("per: chip", "per: rack", "components.gpu.per"),
        ("planned: true", "planned: true\n    repair: 1 h", "planned stop leaves nodes whole"),
        ("planned: true", "planed: true", "unknown field"),
        ('value: 1, unit: "%"', 'value: 101, unit: "%"', "spare_share"),
        ("job_start:", "start:", "unknown field"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_message(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        load_reliability(changed(tmp_path, old, new))
    assert said in str(error.value)
    assert "mine.yaml" in str(error.value)
