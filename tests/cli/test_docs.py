"""What README and docs show works: files, commands and Python in the order of the page, in an empty folder.

yaml and json blocks are files where their first line is `# name.yaml` or the paragraph before says "into", "as" or
"to" `name.yaml`; others are read. sh blocks and indented lines are commands; `# exit 2` after one says that it is
refused. python blocks run in one namespace a page. text blocks are of what was run last: every word was printed. A
command in a sentence is run where it is whole. `cosim measure` finds a device that is made up.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cosim import library
from cosim.hardware.load import load_chip, load_system
from cosim.mapping.plan import Plan, Scenario
from cosim.overrides import paths, value_at
from cosim.workload.load import load_workload

ROOT = library.shipped()
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))] if README.is_file() else []
Answer = tuple[int, str, str]
pytestmark = [
    pytest.mark.skipif(not PAGES, reason="the pages are not beside the data: not a checkout"),
    pytest.mark.usefixtures("shipped_files_read_once"),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
HUB_CONFIG = """{
  "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
  "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072
}"""
READERS_OWN = {"path/to/config.json": HUB_CONFIG}
"""Files that a page takes for granted."""
NOT_RUN = ("make", "pip", "git")
SHIPPED = "cosim run gpu-vs-asic --out my-study"
FILE = re.compile(r"\b(?:into|as|to)\s+`([\w<>./-]+\.(?:yaml|json))`")
PLACEHOLDER = re.compile(r"\.\.\.|<|\b[A-Z]{3,}\b")
NEEDS = {"estimate": ("--system", "--workload"), "diff": ("--workload",)}
"""Options without which a command in a sentence is only a mention."""
WORD = re.compile(r"[^\W\d]{3,}")


@dataclass(frozen=True)
class Step:
    """A piece of a page: its kind, its text, its line, and the file that it is if it is one."""

    kind: str
    text: str
    line: int
    file: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the reader writes it down."""
        return bool(self.file) and self.kind in ("yaml", "json")


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def steps(page: Path) -> tuple[Step, ...]:
    """Pieces of a page in their order: sentences' commands, commands, files, Python, what was printed."""
    found: list[Step] = []
    before = ""
    for piece in _pieces(text_of(page).splitlines()):
        if piece.kind == "paragraph":
            before = piece.text
            found += [Step("sentence", span, piece.line) for span in re.findall(r"`(cosim [^`]+)`", before)]
        else:
            found.append(Step(piece.kind, piece.text, piece.line, _file(piece.text, before)))
    return tuple(found)


def _pieces(lines: list[str]) -> Iterator[Step]:
    """Paragraphs, fenced blocks and indented commands."""
    at = 0
    while at < len(lines):
        start, line = at, lines[at]
        at += 1
        if line.startswith("```"):
            at = lines.index("```", at) + 1
            yield Step(line[3:], "\n".join(lines[start + 1 : at - 1]) + "\n", start + 1)
        elif line.startswith("    ") and line.split()[0] in ("cosim", *NOT_RUN):
            yield Step("sh", line, start + 1)
        elif line.strip() and not line.startswith("    "):
            while at < len(lines) and lines[at].strip() and not lines[at].startswith(("    ", "```")):
                at += 1
            yield Step("paragraph", " ".join(lines[start:at]), start + 1)


def _file(body: str, before: str) -> str:
    """Name of the file that a block is: in its first line, or in the paragraph before; empty for none."""
    named = re.match(r"# ([\w./-]+\.(?:yaml|json))\n", body)
    found = [named[1]] if named else FILE.findall(before)
    return re.sub(r"[<>]", "", found[-1]) if found else ""


def commands(text: str) -> list[str]:
    """Commands of a block, those that end in a backslash joined to the next line."""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip() and line[0] != "#"]


def is_whole(span: str) -> bool:
    """Whether a command in a sentence can be run: no mention, no placeholder."""
    words = span.split()
    return len(words) > 2 and not PLACEHOLDER.search(span) and all(each in words for each in NEEDS.get(words[1], ()))


@cache
def targets() -> frozenset[str]:
    """Targets of the Makefile."""
    return frozenset(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@dataclass
class Reader:
    """Who follows a page in an empty folder: what was printed, Python's names."""

    call: Callable[..., Answer]
    capsys: pytest.CaptureFixture[str]
    request: pytest.FixtureRequest
    printed: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "docs"})

    def follow(self, page: Path) -> None:
        """Does all that the page says."""
        for file, text in READERS_OWN.items():
            if file in text_of(page):
                self.write(file, text)
        does = {"sentence": self.sentence, "sh": self.block, "python": self.python, "text": self.compare}
        for step in steps(page):
            if step.is_file:
                self.write(step.file, step.text)
            elif step.kind in ("yaml", "json"):
                assert parsed(step), f"{page.name}:{step.line} holds nothing"
            elif step.kind in does:
                does[step.kind](step)

    def write(self, file: str, text: str) -> None:
        """Writes a file of the page; inside the folder."""
        path = Path(file)
        assert not path.is_absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def sentence(self, step: Step) -> None:
        """Runs a command that a sentence names whole."""
        if is_whole(step.text):
            self.command(step.text)

    def block(self, step: Step) -> None:
        """Runs the commands of a block."""
        for line in commands(step.text):
            self.command(line)

    def command(self, line: str) -> None:
        """Runs a command, which ends as the page says; of others only their targets must exist."""
        words = shlex.split(line, comments=True)
        if words[0] in NOT_RUN:
            asked = [word for word in words[1:] if words[0] == "make" and "=" not in word]
            assert set(asked) <= targets(), line
            return
        assert words[0] == "cosim", f"neither run nor known: {line}"
        code, out, err = self.shipped() if line.startswith(SHIPPED) else self.call(*words[1:])
        expected = re.search(r"# exit (\d)", line)
        assert code == (int(expected[1]) if expected else 0), f"{line}\n{out}{err}"
        assert (out + err).strip(), f"{line} prints nothing"
        self.printed.append(out + err)

    def shipped(self) -> Answer:
        """The shipped study takes half a minute: run once for all tests."""
        run = self.request.getfixturevalue("shipped_run")
        shutil.copytree(run.folder, "my-study")
        return run.code, run.out, ""

    def python(self, step: Step) -> None:
        """Runs a snippet."""
        exec(compile(step.text, f"line {step.line}", "exec"), self.names)  # noqa: S102  # our own text
        self.printed.append(self.capsys.readouterr().out)

    def compare(self, step: Step) -> None:
        """Holds what a page shows against what was printed last: its words, not its numbers."""
        unknown = set(WORD.findall(step.text)) - set(WORD.findall(self.printed[-1]))
        assert not unknown, f"line {step.line} shows what was not printed: {sorted(unknown)}"


def parsed(step: Step) -> object:
    """Content of a block that is no file."""
    if step.kind == "json":
        return json.loads(step.text)
    return YAML(typ="safe").load(step.text)


@pytest.mark.slow
@pytest.mark.usefixtures("own_device")
@each_page
def test_all_that_a_page_shows_works(
    page: Path,
    call: Callable[..., Answer],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(call, capsys, request)
    reader.follow(page)
    if page == README:
        rates = json.loads(next(text for text in reader.printed if text.startswith("[")))
        assert (len(rates), rates) == (3, sorted(rates))
        assert any("9.421 TB/s" in text for text in reader.printed)  # my-chip: 8 x 1,024 x 9.2 Gb/s
        assert (tmp_path / "my-study" / "report.html").is_file()


@each_page
def test_every_file_of_a_page_is_used(page: Path) -> None:
    for step in steps(page):
        others = [other.text for other in steps(page) if other is not step and other.kind != "text"]
        name = Path(step.file).stem if step.kind == "yaml" else step.file
        assert not step.is_file or any(name in text for text in others), f"line {step.line}: {step.file}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        file, _, anchor = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """Names of a page's headings in links."""
    heads = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)\s#]+)\)", text_of(index))}
    assert {page for page in PAGES if DOCS in page.parents and page != index} <= linked


@each_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    own = {step.file for step in steps(page)}
    folders = "cosim|benchmarks|tests|experiments|accelerators|workloads|docs"
    for file in re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", text_of(page)):
        readers = file in own or Path(file).name.startswith("my-")
        assert readers or (ROOT / file).is_file(), file


@cache
def described() -> dict[str, list[Any]]:
    """Descriptions by the root of their paths."""
    systems = [load_system(name) for name in ("dgx-h100", "asic-8", "tpu-v5p-64", "maia-200-4")]
    models = [load_workload(name) for name in ("llama-3.1-70b", "deepseek-v3", "gpt-oss-120b", "resnet-50")]
    return {"system": systems, "workload": models, "plan": [Plan()], "scenario": [Scenario()]}


@each_page
def test_paths_that_a_page_names_exist(page: Path) -> None:
    for path in re.findall(r"`((?:system|workload|plan|scenario)\.[\w.-]+\w)(?:=[^`]*)?`", text_of(page)):
        root, _, rest = path.partition(".")
        assert any(rest in paths(spec) or value_at(spec, rest) is not None for spec in described()[root]), path


def test_the_readme_counts_the_chips_of_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    chips = [load_chip(name) for name in library.names("accelerators") if name != "asic-template"]
    text = " ".join(text_of(README).split())
    assert f"on {len(chips)} chips (" in text
    assert f"Kernels of {sum(chip.confidence == 'measured' for chip in chips)} chips are fitted" in text


def test_the_accuracy_table_is_filled() -> None:
    assert "h100-sxm bf16, held-out half" in text_of(README)
