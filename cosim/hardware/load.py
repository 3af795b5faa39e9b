"""From files to chips and systems: base inheritance, sources by key, checks at load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosim import documents, library
from cosim.documents import Data, Document
from cosim.errors import SpecError
from cosim.hardware.checks import check_chip, check_system
from cosim.hardware.chip import Chip
from cosim.hardware.system import System
from cosim.schema import validated

MAX_BASES = 8


def load_chip(name: str) -> Chip:
    """The chip called `name`, or in the file `name`. Raises SpecError."""
    path = library.find("accelerators", name)
    data, chain = _with_bases(path, "accelerators")
    chip = validated(Chip, _cited(data), chain[0], chain[1:])
    check_chip(chip, chain[0])
    return chip


def load_system(name: str) -> System:
    """The system called `name`, or in the file `name`; its `chip:` is a name or a file. Raises SpecError."""
    path = library.find("systems", name)
    data, chain = _with_bases(path, "systems")
    own = chain[0]
    if isinstance(data.get("chip"), str):
        reference = data["chip"]
        beside = path.parent / reference
        try:
            chip = load_chip(str(beside) if reference.endswith(".yaml") and beside.is_file() else reference)
        except SpecError as error:
            raise error.at(file=own.path, line=own.line("chip")) from None
        data = {**data, "chip": chip}
    system = validated(System, _cited(data), own, chain[1:])
    check_system(system, own)
    return system


def _with_bases(path: Path, kind: str) -> tuple[Data, tuple[Document, ...]]:
    """The file's data over that of its `base:` chain, and the documents from the file to the last base."""
    chain: list[Document] = []
    at: Path | None = path
    while at is not None:
        document = documents.read(at)
        if len(chain) >= MAX_BASES or any(document.path == seen.path for seen in chain):
            raise SpecError("base files refer to each other", file=path, line=chain[0].line("base"), field="base")
        chain.append(document)
        base = document.data.get("base")
        at = None if base is None else library.find(kind, str(base))
    merged: Data = {}
    for document in reversed(chain):
        merged = _merged(merged, {k: v for k, v in document.data.items() if k != "base"})
    return merged, tuple(chain)


def _merged(below: Data, above: Data) -> Data:
    """`above` over `below`: mappings join field by field, a datum or a list replaces the whole."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        joins = isinstance(old, dict) and isinstance(value, dict) and "value" not in value
        out[key] = _merged(old, value) if joins and isinstance(old, dict) else value
    return out


def _cited(data: Data) -> Data:
    """Every `source: key` replaced by the text of `sources.key`, with the mark of what is unverified."""
    sources = data.get("sources")
    texts: dict[str, str] = {}
    for key, entry in (sources if isinstance(sources, dict) else {}).items():
        if isinstance(entry, dict) and isinstance(entry.get("text"), str):
            texts[key] = entry["text"] + ("" if entry.get("checked", True) else " [unverified recollection]")
    return {key: value if key == "sources" else _resolved(value, texts) for key, value in data.items()}


def _resolved(node: Any, texts: Mapping[str, str]) -> Any:  # noqa: ANN401  # any part of a document
    if isinstance(node, dict):
        out = {key: _resolved(value, texts) for key, value in node.items()}
        if isinstance(out.get("source"), str):
            out["source"] = texts.get(out["source"], out["source"])
        return out
    if isinstance(node, list):
        return [_resolved(value, texts) for value in node]
    return node
