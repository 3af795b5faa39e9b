"""Schedules from the command line: shown, as events, refused with the nearest name, limits with a way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
ASKED = ("estimate", "train", "--system", "dgx-h100", "--workload", "llama-3.1-8b")
BATCH = ("scenario.global_batch=32",)
GIVEN = (*BATCH, "plan.pipeline_parallel=4", "plan.data_parallel=2", "plan.zero=1", "plan.recompute=full")
PIECES = {"1f1b": 1, "gpipe": 1, "zb-h1": 1, "zb-v": 2, "dualpipe": 2}


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def row_of(call: Call, *settings: str) -> dict[str, Any]:
    code, out, err = call(*ASKED, *sets(*settings), "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_schedule_is_shown_and_kept_in_the_row(call: Call) -> None:
    code, out, err = call(*ASKED, *sets(*GIVEN, "plan.schedule=zb-h1"))
    assert (code, err) == (0, "")
    plan = next(line for line in out.splitlines() if line.strip().startswith("plan"))
    assert "micro-batches 16 of 1, schedule zb-h1, zero 1" in plan
    assert row_of(call, *GIVEN, "plan.schedule=zb-h1")["plan.schedule"] == "zb-h1"
    assert "schedule" not in call(*ASKED, *sets(*GIVEN))[1]


def test_schedules_order_by_bubble_and_memory(call: Call) -> None:
    rows = {
        name: row_of(call, *GIVEN, f"plan.schedule={name}", f"plan.virtual_pipeline={pieces}")
        for name, pieces in PIECES.items()
    }
    bubble = {name: row["breakdown_s.bubble"] for name, row in rows.items()}
    assert bubble["gpipe"] == pytest.approx(bubble["1f1b"], rel=1e-2)
    assert bubble["dualpipe"] < bubble["zb-v"] < bubble["zb-h1"] < bubble["1f1b"]
    assert rows["gpipe"]["memory_bytes.activations"] > rows["zb-h1"]["memory_bytes.activations"]
    assert rows["dualpipe"]["memory_bytes.weights"] == pytest.approx(2 * rows["zb-h1"]["memory_bytes.weights"])
    for row in rows.values():
        parts = sum(value for name, value in row.items() if name.startswith("breakdown_s."))
        assert parts == pytest.approx(row["time_s"], rel=1e-12)


@pytest.mark.parametrize(("name", "pieces"), sorted(PIECES.items()))
def test_every_schedule_has_a_timeline(call: Call, tmp_path: Path, name: str, pieces: int) -> None:
    path = tmp_path / "step.json"
    plan = (*GIVEN, f"plan.schedule={name}", f"plan.virtual_pipeline={pieces}")
    code, _, err = call(*ASKED, *sets(*plan), "--timeline", path)
    assert (code, err.startswith("timeline: ")) == (0, True)
    labels = {one["name"].split()[0] for one in json.loads(path.read_text(encoding="utf-8"))["traceEvents"]}
    assert ("weight" in labels) == (name in ("zb-h1", "zb-v", "dualpipe"))


def test_the_search_keeps_to_1f1b_unless_a_schedule_is_given(call: Call) -> None:
    assert row_of(call, *BATCH)["plan.schedule"] == "1f1b"
    found = row_of(call, *BATCH, "plan.schedule=zb-v")
    assert (found["plan.schedule"], found["plan.virtual_pipeline"], found["feasible"]) == ("zb-v", 2, True)
    assert found["plan.pipeline_parallel"] % 2 == 0
    assert found["plans_tried"] > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("plan.schedule=zb-h2",), "plan.schedule: no schedule has this name (got 'zb-h2'); nearest: zb-h1"),
        (("plan.schedule=dual",), "plan.schedule: no schedule has this name (got 'dual'); nearest: dualpipe"),
        (("plan.schedule=3",), "plan.schedule: "),
    ],
)
def test_a_wrong_name_is_one_message(
    refused: Callable[[tuple[str, ...]], str], settings: tuple[str, ...], said: str
) -> None:
    assert said in refused((*ASKED, *sets(*settings)))


def test_serving_has_no_schedule(refused: Callable[[tuple[str, ...]], str]) -> None:
    said = refused(("estimate", "decode", *ASKED[2:], *sets("plan.schedule=gpipe")))
    assert "plan.schedule: is not part of decode" in said


@pytest.mark.parametrize(
    ("settings", "limit", "said"),
    [
        (
            ("plan.schedule=zb-v", "plan.virtual_pipeline=1"),
            "schedule_pieces",
            "plan.virtual_pipeline is 1 under gpipe and zb-h1, 2 under zb-v",
        ),
        (("plan.schedule=gpipe", "plan.virtual_pipeline=2"), "schedule_pieces", "1 pieces a stage more or fewer"),
        (
            ("plan.schedule=dualpipe", "plan.virtual_pipeline=2", "scenario.global_batch=8"),
            "schedule_micro_batches",
            "dualpipe an even number and twice as many",
        ),
        (
            ("plan.schedule=zb-v", "plan.virtual_pipeline=2", "workload.layers=12"),
            "schedule_layers",
            "leaves a remainder of 4 layers",
        ),
    ],
)
def test_a_plan_that_does_not_suit_its_schedule(call: Call, settings: tuple[str, ...], limit: str, said: str) -> None:
    code, out, err = call(*ASKED, *sets(*GIVEN, *settings))
    assert (code, out) == (2, "")
    assert err.startswith(f"does not fit: {limit}: ")
    assert said in err
