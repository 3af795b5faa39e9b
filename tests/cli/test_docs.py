"""What README and docs show works: files, commands and Python in the order of the page, in an empty folder.

    ```yaml, ```json    a file, where its first line is `# name.yaml` or the paragraph before says "into", "as" or "to"
                        `name.yaml`; other blocks are read
    ```sh, indented     commands; `# exit 2` after one says that it is refused
    ```python           run in one namespace a page
    ```text             of what was run last: every word of it was printed
    `cosim ...`         a command in a sentence is run where it is whole
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

from cosim import library
from cosim.hardware.load import load_system
from cosim.mapping.plan import Plan, Scenario
from cosim.overrides import paths, value_at
from cosim.workload.load import load_model

ROOT = library.shipped()
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))] if README.is_file() else []
Answer = tuple[int, str, str]
pytestmark = [
    pytest.mark.skipif(not PAGES, reason="the pages are not beside the data: not a checkout"),
    pytest.mark.usefixtures("shipped_files_read_once"),
]
# What a page takes for granted that the reader has.
HUB_CONFIG = """{
  "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
  "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072
}"""
GIVEN = {"path/to/config.json": HUB_CONFIG}
RUN = ("cosim",)
NOT_RUN = ("make", "pip", "git")
FILE = re.compile(r"\b(?:into|as|to)\s+`([\w<>./-]+\.(?:yaml|json))`")
PLACEHOLDER = re.compile(r"\.\.\.|<|\b[A-Z]{3,}\b")


@dataclass(frozen=True)
class Step:
    """A piece of a page: what kind it is, its text, the file that it is if it is one, its line."""

    kind: str
    text: str
    file: str
    line: int


@dataclass
class Reader:
    """Who follows a page: what was printed last, Python's names."""

    last: str = ""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "docs"})
    printed: list[str] = field(default_factory=list)

    def sees(self, text: str) -> None:
        self.last = text
        self.printed.append(text)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def steps(page: Path) -> tuple[Step, ...]:
    """Pieces of a page in their order."""
    return tuple(_steps(page.read_text(encoding="utf-8").splitlines()))


def _steps(lines: list[str]) -> Iterator[Step]:
    paragraph: list[str] = []
    before, at = "", 0
    while at < len(lines):
        line = lines[at]
        fence = re.fullmatch(r"```(\w*)", line)
        if fence is None and line.strip() and not line.startswith("    "):
            paragraph.append(line)
            at += 1
            continue
        if paragraph:
            before = " ".join(paragraph)
            yield from (Step("sentence", span, "", at) for span in re.findall(r"`(cosim [^`]+)`", before))
            paragraph = []
        if fence is not None:
            end = lines.index("```", at + 1)
            body = "\n".join(lines[at + 1 : end]) + "\n"
            yield Step(fence[1], body, _file(body, before), at + 1)
            at = end
        elif line.startswith("    ") and line.split()[0] in (*RUN, *NOT_RUN):
            yield Step("sh", line.strip() + "\n", "", at + 1)
        at += 1
    if paragraph:
        yield from (Step("sentence", span, "", at) for span in re.findall(r"`(cosim [^`]+)`", " ".join(paragraph)))


def _file(body: str, before: str) -> str:
    """Name of the file that a block is: in its first line, or in the paragraph before; empty for none."""
    named = re.match(r"# ([\w./-]+\.(?:yaml|json))\n", body)
    found = [named[1]] if named else FILE.findall(before)
    return re.sub(r"[<>]", "", found[-1]) if found else ""


def command_lines(text: str) -> list[str]:
    """Lines of a block, those that end in a backslash joined to the next."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def words_of(line: str) -> list[str]:
    """Words of a command, without its comment."""
    return shlex.split(line, comments=True)


def is_whole(span: str) -> bool:
    """Whether a command in a sentence can be run: not a mention, no placeholder."""
    words = span.split()
    if len(words) < 3 or PLACEHOLDER.search(span):
        return False
    needs = {"estimate": ("--system", "--workload"), "diff": ("--workload",)}.get(words[1], ())
    return all(option in words for option in needs)


@cache
def targets() -> frozenset[str]:
    """Targets of the Makefile."""
    return frozenset(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture(scope="module")
def followed() -> dict[str, Reader]:
    """What readers of pages saw, for further tests of it."""
    return {}


@pytest.fixture
def follow(
    call: Callable[..., Answer],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Path], Reader]:
    """Does all that a page says, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(reader: Reader, line: str) -> None:
        words = words_of(line)
        if words[0] in NOT_RUN:
            asked = [word for word in words[1:] if words[0] == "make" and "=" not in word]
            assert set(asked) <= targets(), line
            return
        assert words[0] in RUN, f"neither run nor known: {line}"
        if words == ["cosim", "run", "gpu-vs-asic", "--out", "my-study"]:
            shipped = request.getfixturevalue("shipped_run")
            shutil.copytree(shipped.folder, "my-study")
            code, out, err = shipped.code, shipped.out, ""
        else:
            code, out, err = call(*words[1:])
        expected = re.search(r"# exit (\d)", line)
        assert code == (int(expected[1]) if expected else 0), f"{line}\n{out}{err}"
        assert (out + err).strip(), f"{line} prints nothing"
        reader.sees(out + err)

    def python(reader: Reader, text: str, where: str) -> None:
        exec(compile(text, where, "exec"), reader.names)  # noqa: S102  # our own text
        reader.sees(capsys.readouterr().out)

    def _follow(page: Path) -> Reader:
        reader = Reader()
        for file, text in GIVEN.items():
            if file in page.read_text(encoding="utf-8"):
                _write(file, text)
        for step in steps(page):
            if step.kind == "sh":
                for line in command_lines(step.text):
                    command(reader, line)
            elif step.kind == "sentence" and is_whole(step.text):
                command(reader, step.text)
            elif step.kind == "python":
                python(reader, step.text, f"{name_of(page)}:{step.line}")
            elif step.kind == "text":
                known = set(re.findall(r"[^\W\d]{3,}", reader.last))
                unknown = [word for word in re.findall(r"[^\W\d]{3,}", step.text) if word not in known]
                assert not unknown, f"{name_of(page)}:{step.line} shows what was not printed: {unknown}"
            elif step.file:
                _write(step.file, step.text)
            elif step.kind in ("yaml", "json"):
                _read(step)
        return reader

    return _follow


def _write(file: str, text: str) -> None:
    path = Path(file)
    assert not path.is_absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _read(step: Step) -> None:
    from ruamel.yaml import YAML

    assert (json.loads if step.kind == "json" else YAML(typ="safe").load)(step.text)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_that_a_page_shows_works(
    page: Path, follow: Callable[[Path], Reader], followed: dict[str, Reader], tmp_path: Path
) -> None:
    reader = followed[name_of(page)] = follow(page)
    if page != README:
        return
    rates = next(text for text in reader.printed if text.startswith("["))
    assert len(rates.split(",")) == 3
    assert (tmp_path / "my-study" / "report.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_of_a_page_is_used(page: Path) -> None:
    used = " ".join(step.text for step in steps(page) if step.kind in ("sh", "python", "sentence", "yaml"))
    for step in steps(page):
        if step.file and step.kind in ("yaml", "json"):
            stem = Path(step.file).stem if step.kind == "yaml" else step.file
            assert used.replace(step.text, "").count(stem), f"{name_of(page)}:{step.line}: {step.file}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        found = page if not file else page.parent / file
        assert found.exists(), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors(found), f"{name_of(page)}: {target}"


def anchors(page: Path) -> set[str]:
    """Names of a page's headings in links."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)\s#]+)\)", index.read_text(encoding="utf-8"))}
    assert {page.resolve() for page in PAGES if DOCS in page.parents and page != index} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    own = {step.file for step in steps(page)}
    folders = "cosim|benchmarks|tests|experiments|accelerators|workloads|docs"
    for file in re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")):
        assert file in own or (ROOT / file).is_file(), f"{name_of(page)}: {file}"


@cache
def known_paths() -> dict[str, list[Any]]:
    """Descriptions by the root of their paths."""
    systems = [load_system(name) for name in ("dgx-h100", "asic-8", "tpu-v5p-64", "maia-200-4")]
    models = [load_model(name) for name in ("llama-3.1-70b", "deepseek-v3", "gpt-oss-120b")]
    return {"system": systems, "workload": models, "plan": [Plan()], "scenario": [Scenario()]}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    for path in re.findall(r"`((?:system|workload|plan|scenario)\.[\w.-]+\w)(?:=[^`]*)?`", page.read_text(encoding="utf-8")):
        root, _, rest = path.partition(".")
        known = [rest in paths(spec) or value_at(spec, rest) is not None for spec in known_paths()[root]]
        assert any(known), f"{name_of(page)}: {path}"


def test_the_accuracy_table_is_filled() -> None:
    assert "h100-sxm bf16, held-out half" in README.read_text(encoding="utf-8")
