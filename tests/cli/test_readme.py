"""What the README shows works: every command, the Python snippet, the chip and the system of 'Add a chip'."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim import library

README = library.shipped() / "README.md"
Answer = tuple[int, str, str]
pytestmark = pytest.mark.skipif(not README.is_file(), reason="the README is not beside the data: not a checkout")


def commands() -> list[str]:
    """Lines of indented blocks that start with cosim, without those that need a file of the reader's."""
    lines = re.findall(r"^    (cosim [^#\n]+)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.strip() for line in lines if "path/to" not in line]


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_commands_to_run() -> None:
    assert len(commands()) >= 7


@pytest.mark.slow
def test_the_shipped_study_runs_as_the_readme_says(shipped_run: Any) -> None:
    assert shipped_run.line in commands()
    assert shipped_run.code == 0
    assert shipped_run.out.splitlines()[-1] == "page: my-study/report.html"
    assert (shipped_run.folder / "report.html").is_file()


@pytest.mark.parametrize("line", [line for line in commands() if "gpu-vs-asic --out" not in line])
def test_a_command_of_the_readme_succeeds(
    call: Callable[..., Answer], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(*shlex.split(line)[1:])
    assert code == 0
    assert out.strip()


def test_the_python_snippet_prints_three_rates_that_rise_with_stacks(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = fenced("python")
    exec(compile(snippet, "README.md", "exec"), {})  # noqa: S102  # our own text
    rates = [float(text) for text in capsys.readouterr().out.strip("[]\n").split(",")]
    assert rates == sorted(rates)
    assert len(rates) == 3


def test_the_chip_of_the_readme_can_be_added(
    call: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chip, system = fenced("yaml")
    for path, text in (("accelerators/me/my-chip.yaml", chip), ("accelerators/systems/my-8.yaml", system)):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    code, out, _ = call("show", "my-chip")
    assert (code, "9.421 TB/s" in out) == (0, True)  # 8 x 1,024 x 9.2 Gb/s
    code, out, _ = call("estimate", "decode", "--system", "my-8", "--workload", "llama-3.1-70b")
    assert (code, "my-8" in out) == (0, True)


def test_the_accuracy_table_is_filled_and_the_figure_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert "h100-sxm bf16, held-out half" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (README.parent / picture).is_file()
