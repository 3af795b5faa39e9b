"""`cosim goodput`: a long run on the screen, as JSON and as a timeline, and every way to ask wrongly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.cli.goodput_screen import span

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
SETS = ("system.nodes=8", "scenario.global_batch=64", "plan.tensor_parallel=2", "plan.data_parallel=32")
ASKED = (
    "goodput",
    "--system",
    "dgx-h100",
    "--workload",
    "llama-3.1-8b",
    *(word for each in (*SETS, "plan.recompute=full") for word in ("--set", each)),
)
LONG = (*ASKED, "--steps", "20000000", "--seeds", "4")


def asked(call: Call, *more: str) -> dict[str, Any]:
    code, out, err = call(*LONG, *more, "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_screen_says_what_was_asked_and_what_came_out(call: Call) -> None:
    code, out, err = call(*LONG)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "llama-3.1-8b on dgx-h100: 64 chips on 8 nodes (1 spare)"
    for words in ("goodput", "closed form", "effective training time", "seed 0", "lost time", "work done again"):
        assert words in out
    assert "unverified recollection: components.gpu.repair" in out


def test_times_are_said_as_people_do() -> None:
    said = [span(time_s) for time_s in (4.0, 119.0, 150.0, 7200.0, 86400.0, 129.9 * 86400.0)]
    assert said == ["4 s", "119 s", "2.5 min", "2 h", "24 h", "129.9 days"]


def test_json_repeats_itself_by_seed(call: Call) -> None:
    first, again, other = asked(call), asked(call), asked(call, "--seed", "1")
    assert first == again
    assert first["goodput"] != other["goodput"]
    assert first["expected"] == other["expected"]
    assert first["goodput"]["mean"] == pytest.approx(first["expected"]["goodput"], abs=0.03)


def test_everything_that_can_be_said(call: Call) -> None:
    more = ("--spares", "0", "--elastic", "--checkpoint", "async", "--interval", "30 min", "--slow-spread", "0.01")
    row = asked(call, *more, "--straggler", "17=1.2", "--set", "reliability.components.gpu.mtbf=20000 h")
    assert (row["spares"], row["elastic"], row["checkpoint"], row["interval_rule"]) == (0, True, "async", "given")
    assert row["readable_after_s"] > 0.0
    assert row["lost_s"]["waiting"] == 0.0
    assert row["lost_s"]["shrunk"] > 0.0
    assert row["lost_s"]["stragglers"] > 0.0
    assert row["failures"]["gpu"] > 2.0 * row["failures"]["hbm"]
    _, out, _ = call(*LONG, *more)
    for words in ("elastic", "readable after", "fewer replicas", "slow chips", "(given)"):
        assert words in out


def test_tokens_instead_of_steps(call: Call) -> None:
    code, out, _ = call(*ASKED, "--tokens", "1e12", "--seeds", "1", "--json", "-")
    assert code == 0
    assert json.loads(out)["steps"] == 7629395  # 1e12 over 64 x 2,048, rounded up


def test_a_file_of_ones_own_is_taken(call: Call, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: reliability\nname: mine\ntitle: mine\ndetection: {value: 1, unit: h, kind: given, "
        "source: a guess of ours}\n",
        encoding="utf-8",
    )
    shipped, own = asked(call)["lost_s"]["detection"], asked(call, "--reliability", str(mine))["lost_s"]["detection"]
    assert own > 10.0 * shipped


def test_the_timeline_is_written(call: Call, tmp_path: Path) -> None:
    target = tmp_path / "run.json.gz"
    code, _, err = call(*LONG, "--timeline", str(target))
    assert (code, err.strip()) == (0, f"timeline: {target}")
    trace = json.loads(gzip.decompress(target.read_bytes()))["traceEvents"]
    tracks = [event["args"]["name"] for event in trace if event["name"] == "thread_name"]
    assert tracks[0] == "training"
    assert {"recomputed", "detection", "restart", "checkpoint"} <= set(tracks)


def test_the_library_shows_what_fails(call: Call) -> None:
    code, out, _ = call("show", "reliability")
    assert code == 0
    assert "components.hbm.mtbf" in out
    assert "419 by cause" in out
    code, out, _ = call("list", "technology")
    assert "components gpu, hbm, host" in out
    code, out, _ = call("schema", "reliability")
    assert code == 0
    assert "job_start" in json.loads(out)["properties"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give one of the two"),
        (("--steps", "10", "--tokens", "10"), "give one of the two"),
        (("--steps", "-5"), "steps: must be more than 0"),
        (("--steps", "10", "--interval", "dayly"), "interval: is no rule (got 'dayly'); nearest: daly"),
        (("--steps", "10", "--checkpoint", "asynk"), "nearest: async"),
        (("--steps", "10", "--spares", "-1"), "spares: is out of range"),
        (("--steps", "10", "--straggler", "99"), "is not CHIP=FACTOR"),
        (("--steps", "10", "--straggler", "99=2"), "is no chip of the run"),
        (("--steps", "10", "--reliability", "nothing"), "no technology has this name"),
        (("--steps", "10", "--set", "reliability.components.gpu.mtbf=0 h"), "must be more than 0"),
        (("--steps", "10", "--set", "reliability.components.gpux.mtbf=1 h"), "unknown path"),
        (("--steps", "1000000", "--set", "reliability.components.gpu.mtbf=10 min"), "never ends"),
        (("--steps", "10", "--timeline", "none/there/run.json"), "cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(call: Call, more: tuple[str, ...], said: str) -> None:
    code, out, err = call(*ASKED, *more)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
