"""From files to chips and systems: base inheritance, sources by key, checks at load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosim import documents, library
from cosim.datum import UNSOURCED
from cosim.documents import Data, Document
from cosim.errors import SpecError, nearest
from cosim.hardware.checks import check_chip, check_system
from cosim.hardware.chip import Chip
from cosim.hardware.collectives import CollectiveLibrary
from cosim.hardware.compute import KernelLibrary
from cosim.hardware.lower import COSTS, SHARES
from cosim.hardware.system import System
from cosim.schema import validated

MAX_BASES = 8
CAPACITIES = ("capacity", "stacks", "stack_capacity")
"""Fields of a memory that its capacity follows from."""


def load_chip(name: str) -> Chip:
    """The chip called `name`, or in the file `name`. Raises SpecError."""
    return read_chip(name)[0]


def load_system(name: str) -> System:
    """The system called `name`, or in the file `name`; its `chip:` is a name or a file. Raises SpecError."""
    return read_system(name)[0]


def read_chip(name: str) -> tuple[Chip, tuple[Document, ...]]:
    """A chip and every file it was read from, bases included. Raises SpecError."""
    data, chain, others = _chip_data(name)
    chip = validated(Chip, data, chain[0], chain[1:])
    try:
        check_chip(chip, chain[0])
    except SpecError as error:
        raise error.at(file=chain[0].path) from None
    return chip, (*chain, *others)


def read_system(name: str) -> tuple[System, tuple[Document, ...]]:
    """A system and every file it was read from: its own, its bases, its chip's. Raises SpecError."""
    path = library.find("systems", name)
    data, chain = _with_bases(path, "systems")
    own, files = chain[0], chain
    if isinstance(data.get("chip"), str):
        reference = data["chip"]
        holder = next((d for d in chain if "chip" in d.data), own)
        beside = holder.path.parent / reference
        try:
            is_beside = reference.endswith(".yaml") and beside.is_file()
            chip, chip_files = read_chip(str(beside) if is_beside else reference)
        except SpecError as error:
            raise error.at(file=holder.path, line=holder.line("chip")) from None
        data, files = {**data, "chip": chip}, (*chain, *chip_files)
    data = _cited(data, chain)
    data, others = _with_collectives(data, chain)
    system = validated(System, data, own, chain[1:])
    files = (*files, *others)
    if isinstance(data.get("chip"), dict):
        check_chip(system.chip, own)
    check_system(system, own)
    return system, files


def _with_collectives(data: Data, chain: tuple[Document, ...]) -> tuple[Data, tuple[Document, ...]]:
    """Every tier with the constants of its library, its own over them, and the files read. Raises SpecError."""
    tiers, files = data.get("tiers"), tuple[Document, ...]()
    if not isinstance(tiers, list):
        return data, files
    whole: list[Any] = []
    sources: Data = {}
    for index, tier in enumerate(tiers):
        if isinstance(tier, dict) and isinstance(tier.get("collectives"), str):
            try:
                _, shared, read = _collective_library(tier["collectives"])
            except SpecError as error:
                at = f"tiers.{index}.collectives"
                holder = next((d for d in chain if at in d.lines), chain[0])
                raise (error if error.file else error.at(file=holder.path, line=holder.line(at))) from None
            own = tier.get("constants")
            lent = _lent_collectives(shared, str(data.get("name")))
            whole.append({**tier, "constants": _merged(lent, own if isinstance(own, dict) else {})})
            files = (*files, *(document for document in read if document not in files))
            sources |= {f"{shared['name']}.{key}": source for key, source in (shared.get("sources") or {}).items()}
        else:
            whole.append(tier)
    own = data.get("sources") or {}
    # What is no mapping is left to the check of the whole, which names its line.
    return {**data, "tiers": whole, "sources": {**sources, **own} if isinstance(own, dict) else own}, files


def _lent_collectives(shared: Data, system: str) -> Data:
    """A library's constants as `system` has them: on one that they were not fitted on they are estimates."""
    kept = {key: value for key, value in shared.items() if key not in ("name", "title", "sources", "lent")}
    factor = (shared.get("lent") or {}).get("value")
    if factor is None or system in shared.get("fitted_on", ()):
        return kept
    protocols = {
        name: {key: _ranged(value, key == "share", factor) for key, value in protocol.items()}
        for name, protocol in kept.get("protocols", {}).items()
    }
    return {**kept, "protocols": protocols, "held_out": None}


def _ranged(datum: Any, is_share: bool, factor: float) -> Any:  # noqa: ANN401  # data of a file
    """The datum as an estimate with the range of what is lent, if it is one that has none."""
    if not isinstance(datum, dict) or {"low", "high"} & set(datum) or datum.get("kind") == "given":
        return datum
    most = 1.0 if is_share else float("inf")
    value = datum["value"]
    return {**datum, "kind": "estimated", "low": value / factor, "high": min(value * factor, most)}


def usual_systems() -> dict[str, str]:
    """The system that is meant where a chip is named alone, by chip: those whose files say `usual: true`."""
    found: dict[str, str] = {}
    for name, path in library.names("systems").items():
        data = documents.read(path).data
        if data.get("usual") is True and isinstance(data.get("chip"), str):
            found.setdefault(data["chip"], name)
    return found


def described(name: str, kind: str) -> tuple[Data, tuple[Document, ...]]:
    """Content of any description with its bases merged and its sources written out, and its files. Raises SpecError."""
    if kind == "accelerators":
        data, chain, others = _chip_data(name)
        return data, (*chain, *others)
    data, chain = _with_bases(library.find(kind, name), kind)
    return _cited(data, chain), chain


def load_kernels(name: str) -> KernelLibrary:
    """The library of kernels called `name`, or in the file `name`. Raises SpecError."""
    return _kernel_library(name)[0]


def load_collectives(name: str) -> CollectiveLibrary:
    """The library of collectives called `name`, or in the file `name`. Raises SpecError."""
    return _collective_library(name)[0]


def _collective_library(name: str) -> tuple[CollectiveLibrary, Data, tuple[Document, ...]]:
    """A library of collectives, its data with sources written out, and its files. Raises SpecError."""
    data, files = described(name, "collectives")
    return validated(CollectiveLibrary, data, files[0], files[1:]), data, files


def _kernel_library(name: str) -> tuple[KernelLibrary, Data, tuple[Document, ...]]:
    """A library of kernels, its data with sources written out, and its files. Raises SpecError."""
    data, files = described(name, "kernels")
    return validated(KernelLibrary, data, files[0], files[1:]), data, files


def _chip_data(name: str) -> tuple[Data, tuple[Document, ...], tuple[Document, ...]]:
    """A chip's data whole, its chain of files, and those of the library of kernels that it names. Raises SpecError."""
    merged, chain = _with_bases(library.find("accelerators", name), "accelerators")
    data = _cited(merged, chain)
    if not isinstance(data.get("kernels"), str):
        return data, chain, ()
    try:
        _, shared, files = _kernel_library(data["kernels"])
    except SpecError as error:
        holder = next((d for d in chain if "kernels" in d.data), chain[0])
        # A fault inside the library names its own file.
        raise (error if error.file else error.at(file=holder.path, line=holder.line("kernels"))) from None
    named = {f"{shared['name']}.{key}": source for key, source in (shared.get("sources") or {}).items()}
    sources = data.get("sources") or {}
    # What is no mapping is left to the check of the whole, which names its line.
    data["sources"] = {**named, **sources} if isinstance(sources, dict) else sources
    own = data.get("calibration")
    data["calibration"] = _merged(_lent(shared, str(data.get("name"))), own if isinstance(own, dict) else {})
    return data, chain, files


def _lent(shared: Data, chip: str) -> Data:
    """A library's constants as `chip` has them: on a chip that they were not fitted on they are estimates."""
    kept = {key: value for key, value in shared.items() if key not in ("name", "title", "sources", "lent")}
    kept["library"] = shared["name"]
    if chip not in shared.get("fitted_on", ()):
        factor = (shared.get("lent") or {}).get("value")
        constants = {name: _estimated(name, datum, factor) for name, datum in shared.get("constants", {}).items()}
        kept |= {"constants": constants, "held_out": None}
    return kept


def _estimated(name: str, datum: Any, factor: object) -> Data:  # noqa: ANN401  # a mapping, a bare number or text
    """The datum as an estimate, with the range of what is lent where it has none of its own."""
    written = datum if isinstance(datum, dict) else {"value": datum, "source": UNSOURCED}
    value = written.get("value")
    # A limit is met or not: half of one is no weaker limit.
    ranged = name in (*SHARES, *COSTS) and not {"low", "high"} & set(written)
    if ranged and isinstance(factor, int | float) and isinstance(value, int | float):
        most = 1.0 if name in SHARES else float("inf")
        written = {**written, "low": value / factor, "high": min(value * factor, most)}
    return {**written, "kind": "estimated"}


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
        at = None if base is None else _base_of(document, str(base), kind)
    merged: Data = {}
    for document in reversed(chain):
        merged = _merged(merged, {k: v for k, v in document.data.items() if k != "base"})
    return merged, tuple(chain)


def _base_of(document: Document, base: str, kind: str) -> Path:
    """File of a base: beside the file that names it, or found by name. Raises SpecError at that line."""
    beside = document.path.parent / base
    try:
        found = beside if base.endswith((".yaml", ".yml")) and beside.is_file() else library.find(kind, base)
    except SpecError as error:
        raise error.at(file=document.path, line=document.line("base")) from None
    if not found.is_file():
        raise SpecError("no such file", file=document.path, line=document.line("base"), field="base", value=base)
    return found


def _merged(below: Data, above: Data) -> Data:
    """`above` over `below`: mappings join field by field, a datum or a list replaces the whole.

    What a driver shows of a memory is not that of a chip with another capacity.
    """
    out = dict(below)
    if any(name in above for name in CAPACITIES):
        out.pop("capacity_shown", None)
    for key, value in above.items():
        old = out.get(key)
        joins = isinstance(old, dict) and isinstance(value, dict) and "value" not in value
        out[key] = _merged(old, value) if joins and isinstance(old, dict) else value
    return out


def _cited(data: Data, chain: tuple[Document, ...]) -> Data:
    """Every `source: key` replaced by the text of `sources.key`, with the mark of what is unverified.

    Raises SpecError for a one-word source that the file does not explain: a key that was mistyped.
    """
    sources = data.get("sources")
    texts: dict[str, str] = {}
    for key, entry in (sources if isinstance(sources, dict) else {}).items():
        if isinstance(entry, dict) and isinstance(entry.get("text"), str):
            texts[key] = entry["text"] + (" [unverified recollection]" if _unchecked(entry) else "")
    parts = ((key, value if key == "sources" else _resolved(value, texts, key, chain)) for key, value in data.items())
    return dict(parts)


def _unchecked(source: Data) -> bool:
    """YAML 1.2 reads a bare `no` as text; here it means what it says."""
    return str(source.get("checked", True)).lower() in ("false", "no", "off", "0")


def _resolved(node: Any, texts: Mapping[str, str], where: str, chain: tuple[Document, ...]) -> Any:  # noqa: ANN401  # YAML
    if isinstance(node, dict):
        out = {key: _resolved(value, texts, f"{where}.{key}", chain) for key, value in node.items()}
        source = out.get("source")
        if isinstance(source, str) and "value" in out:
            if texts and source not in texts and re.fullmatch(r"[\w-]+", source):
                at = f"{where}.source"
                place = next((d for d in chain if at in d.lines), chain[0])
                raise SpecError(
                    "names no entry of sources",
                    file=place.path,
                    line=place.line(at),
                    field=at,
                    value=source,
                    hint=nearest(source, texts) + "; or write the source out in words",
                )
            out["source"] = texts.get(source, source)
        return out
    if isinstance(node, list):
        return [_resolved(value, texts, f"{where}.{i}", chain) for i, value in enumerate(node)]
    return node
