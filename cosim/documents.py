"""YAML and JSON files as plain data plus the line of every field.

ruamel.yaml in safe round-trip form: refuses duplicate keys, reads 3.35e12 as a number and "on" as
text, and knows lines. What is plainly written, as most descriptions are, is read by `plain_yaml` to the
same end, thirty times as fast. Every way in which a file can be unreadable is one SpecError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosim.errors import SpecError
from cosim.plain_yaml import plain_yaml

MAX_BYTES = 8_000_000
MAX_DEPTH = 40
MAX_FIELDS = 100_000
Data = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A file as read: `data` plain dicts, lists and scalars; `lines` dotted path -> line (from 1)."""

    data: Data
    path: Path
    text: str
    lines: Mapping[str, int] = field(default_factory=dict)

    def line(self, dotted: str) -> int | None:
        """Line of `dotted`, or of its nearest parent that has one."""
        while dotted and dotted not in self.lines:
            dotted = dotted.rpartition(".")[0]
        return self.lines.get(dotted)


def read(path: Path) -> Document:
    """The document at `path` (.yaml, .yml, .json). Raises SpecError naming file and line."""
    text = read_text(path)
    if path.suffix == ".json":
        return Document(_json(text, path), path, text)
    plain = plain_yaml(text)
    if plain is not None:
        return Document(plain[0], path, text, plain[1])
    raw = _yaml(text, path)
    lines: dict[str, int] = {}
    data = _plain(raw, "", lines, path, 0)
    if not isinstance(data, dict):
        raise SpecError("does not hold a mapping", file=path, line=1, value=data, hint="start it with 'name: ...'")
    return Document(data, path, text, lines)


def read_text(path: Path) -> str:
    """Text of a file. Raises SpecError when it is missing, unreadable, binary, empty or huge."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except FileNotFoundError:
        raise SpecError("no such file", file=path, hint="check the path, or 'cosim list'") from None
    except IsADirectoryError:
        raise SpecError("is a folder", file=path, hint="name a file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"cannot be read: {reason}", file=path) from None
    if raw is None:
        raise SpecError("is too large for a description", file=path, hint=f"at most {MAX_BYTES:,} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError("is not text (UTF-8)", file=path, hint="a YAML or JSON file is expected") from None
    if "\x00" in text:
        raise SpecError("is not text (it holds zero bytes)", file=path, hint="a YAML or JSON file is expected")
    if not text.strip():
        raise SpecError("is empty", file=path, hint="'cosim schema' shows what belongs in it")
    return text


def _json(text: str, path: Path) -> Data:
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise SpecError(f"is not JSON: {error.msg}", file=path, line=error.lineno) from None
    except SpecError as error:
        raise error.at(file=path) from None
    except RecursionError:
        raise SpecError("is nested too deeply", file=path) from None
    except ValueError as error:
        raise SpecError(f"cannot be read as JSON: {error}", file=path) from None
    if not isinstance(data, dict):
        raise SpecError("does not hold an object", file=path, line=1)
    return data


def _once(pairs: list[tuple[str, Any]]) -> Data:
    """A JSON object whose keys are there once. Raises SpecError."""
    found: Data = {}
    for key, value in pairs:
        if key in found:
            raise SpecError("is a key twice", field=key)
        found[key] = value
    return found


def _yaml(text: str, path: Path) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        problem = (error.problem or error.context or "cannot be parsed").split("\n")[0]
        raise SpecError(f"is not YAML: {problem}", file=path, line=line) from None
    except (YAMLError, ValueError, RecursionError, AssertionError, LookupError, AttributeError, TypeError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise SpecError(f"is not YAML: {reason}", file=path) from None


def _plain(node: Any, where: str, lines: dict[str, int], path: Path, depth: int) -> Any:  # noqa: ANN401  # YAML is untyped
    """Plain dicts, lists and scalars of a parsed tree; fills `lines` on the way."""
    if len(lines) > MAX_FIELDS:
        raise SpecError(f"holds more than {MAX_FIELDS:,} fields", file=path, hint="aliases may repeat a part too often")
    if depth > MAX_DEPTH:
        raise SpecError("is nested too deeply, or refers to itself", file=path, field=where[:80] or None)
    if isinstance(node, dict):
        return _plain_mapping(node, where, lines, path, depth)
    if isinstance(node, list):
        for index in range(len(node)):
            _note(node, index, f"{where}.{index}", lines)
        return [_plain(value, f"{where}.{index}", lines, path, depth + 1) for index, value in enumerate(node)]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node if node is None else str(node)


def _plain_mapping(node: dict[Any, Any], where: str, lines: dict[str, int], path: Path, depth: int) -> Data:
    out: Data = {}
    for key, value in node.items():
        if not isinstance(key, str | int | float):
            raise SpecError("has a key that is not text", file=path, field=where or None, value=key)
        dotted = f"{where}.{key}" if where else str(key)
        _note(node, key, dotted, lines)
        out[str(key)] = _plain(value, dotted, lines, path, depth + 1)
    return out


def _note(node: Any, key: object, dotted: str, lines: dict[str, int]) -> None:  # noqa: ANN401  # a parser's node
    """Remembers the line of a member, where the parser knows it."""
    position = getattr(node, "lc", None)
    if position is not None and position.data and key in position.data:
        lines[dotted] = position.data[key][0] + 1
