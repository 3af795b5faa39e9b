"""The shipped study, run once as the README runs it and shared by all tests and worker processes that need it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cosim.cli.main import main

SHIPPED = "cosim run gpu-vs-asic --out my-study"
"""As it stands in the README."""


@dataclass(frozen=True)
class Shipped:
    """The line that was run, its exit code, what it printed, and its run folder."""

    line: str
    code: int
    out: str
    folder: Path


@pytest.fixture(scope="session")
def shipped_run(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """Half a minute: the first that asks runs it, others wait for its answer."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    answer = shared / "shipped.json"
    with (shared / "shipped.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.is_file():
            code, out = _run(SHIPPED, shared)
            answer.write_text(json.dumps([code, out]), encoding="utf-8")
    code, out = json.loads(answer.read_text(encoding="utf-8"))
    return Shipped(SHIPPED, code, out, shared / "my-study")


def _run(line: str, folder: Path) -> tuple[int, str]:
    """Exit code and standard output of a command, run in this process and in `folder`."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setattr(sys, "argv", shlex.split(line))
        with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as done:
            main()
    return int(done.value.code or 0), out.getvalue()
