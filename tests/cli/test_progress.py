"""The line of progress, on a terminal and in a log, by a clock that stands still unless told."""

from __future__ import annotations

import io

import pytest

from cosim.cli.progress import LOG_EVERY_S, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr("cosim.cli.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    return stream


def test_a_log_tells_the_first_the_last_and_now_and_then_one_between(clock: list[float]) -> None:
    log = io.StringIO()
    with Progress(log) as progress:
        for done in range(5):
            progress.show(done, 4, f"block {done}")
            clock[0] += LOG_EVERY_S * 0.6
    told = log.getvalue().splitlines()
    assert [line.split("]")[0] for line in told] == ["[0/4", "[2/4", "[4/4"]
    assert told[0] == "[0/4] block 0"


def test_a_step_without_a_count_is_always_told_in_a_log(clock: list[float]) -> None:
    log = io.StringIO()
    progress = Progress(log)
    for what in ("break-even quality", "figures and page"):
        progress.show(0, 0, what)
    assert log.getvalue() == "break-even quality\nfigures and page\n"
    assert clock == [100.0]


def test_the_time_left_is_in_proportion_to_what_is_left(clock: list[float], terminal: io.StringIO) -> None:
    progress = Progress(terminal)
    clock[0] += 30.0
    progress.show(3, 12, "x")  # 10 s each, nine to go
    assert terminal.getvalue().endswith("[3/12] x, 90 s left")
    progress.show(12, 12, "x")
    assert terminal.getvalue().endswith("[12/12] x")


def test_a_terminal_shows_one_line_that_is_gone_at_the_end(clock: list[float], terminal: io.StringIO) -> None:
    with Progress(terminal) as progress:
        for done in range(4):
            progress.show(done, 3, "w" * 300)
    steps = terminal.getvalue().split("\r\x1b[K")
    assert "\n" not in terminal.getvalue()
    assert steps[0] == steps[-1] == ""
    assert len(steps) == 6
    assert max(map(len, steps)) <= 100
    assert clock == [100.0]


def test_a_log_is_left_as_it_is_when_the_run_fails(clock: list[float]) -> None:
    log = io.StringIO()
    progress = Progress(log)
    progress.show(0, 2, "x")
    progress.__exit__(RuntimeError, RuntimeError(), None)
    assert log.getvalue() == "[0/2] x\n"
    assert clock == [100.0]
