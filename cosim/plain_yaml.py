"""The plain part of YAML, in a tenth of the time that all of it takes: what descriptions are mostly written in.

Mappings of plain keys, one entry a line, whose values are scalars or flow collections that end on that line, and
lists of such mappings, each behind a dash that is further in than the key of the list. Whatever is not surely that
(other lists of dashes, anchors, text over several lines, a key twice, any fault) is not read here: the answer is None
and the whole parser reads the file, so that every error is the whole parser's. What is read here is what the whole
parser reads, with the same lines.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

Data = dict[str, Any]
MAX_DEPTH = 12
MAX_LINE = 2_000
MAX_FIELDS = 50_000

_KEY = r"[A-Za-z_][A-Za-z0-9_.+/-]{0,99}"
_INTEGER = r"-?(?:0|[1-9][0-9]{0,17})"
_FLOAT = r"-?[0-9]{1,40}(?:\.[0-9]{0,40}(?:[eE][-+]?[0-9]{1,4})?|[eE][-+]?[0-9]{1,4})"
_QUOTED = r"\"[^\"\\]*\"|'[^']*'"
_END = r"(?= *$| +#)"
_NEXT = r"(?= *[,}\]])"
# A text starts with a letter, or with a number that a word or a letter of no number follows: 8 cards, 2.5D.
_START = r"(?:[A-Za-z_]|[0-9]{1,9}(?:\.[0-9]{1,9})?(?: [A-Za-z]|[ACDF-NP-WYZ]))"


def _scalars(text: str, end: str) -> re.Pattern[str]:
    """A scalar up to what ends it; its group says which kind: 1 quoted, 2 integer, 3 float, 4 text."""
    return re.compile(rf"(?:({_QUOTED})|({_INTEGER})|({_FLOAT})|({text})){end}")


_SKIPPED = re.compile(r" *(?:#.*)?$")
_ENTRY = re.compile(rf"( *)({_KEY}):(?: +|$)")
_DASH = re.compile(rf"( *)-(?= +{_KEY}:(?: |$))")
_FIELD = re.compile(rf" *({_KEY}): +")
_REST = re.compile(r"(?: +#.*| *)$")
# A colon in a text is part of it before a letter or digit, a hash after one.
_LINE_SCALAR = _scalars(_START + r"(?:[^:#]|:(?=\w)|(?<=\w)#)*?", _END)
_FLOW_SCALAR = _scalars(_START + r"[^:#,?\[\]{}]*?", _NEXT)
_WORDS = {"true": True, "false": False, "null": None}
# Words that some parsers take for something else: left to the whole parser, in every spelling but the usual one.
_AMBIGUOUS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


class _NotPlainError(Exception):
    """The text is not surely of the plain part."""


class _Level(NamedTuple):
    """An open mapping or list: its indentation, the dotted path before its members, and itself."""

    indent: int
    prefix: str
    mapping: Data
    items: list[Data] | None = None


def plain_yaml(text: str) -> tuple[Data, dict[str, int]] | None:
    """Data and line (from 1) of every dotted path, or None where `text` is not surely plain."""
    if not text.replace("\n", "").isprintable():
        return None
    lines: dict[str, int] = {}
    try:
        data = _block(text, lines)
    except _NotPlainError:
        return None
    return (data, lines) if data else None


def _block(text: str, lines: dict[str, int]) -> Data:
    """The mapping that lines of `key: value` make by their indentation."""
    levels = [_Level(0, "", {})]
    awaits = ""
    for number, raw in enumerate(text.split("\n"), start=1):
        if _SKIPPED.match(raw):
            continue
        dash = _DASH.match(raw)
        if dash is not None:
            _item(levels, len(dash[1]), awaits, number, lines)
            awaits = ""
        # Behind its dash a member is a mapping like any other.
        line = raw if dash is None else f"{dash[1]} {raw[dash.end() :]}"
        entry = _ENTRY.match(line)
        if entry is None or len(levels) > MAX_DEPTH or len(line) > MAX_LINE or len(lines) > MAX_FIELDS:
            raise _NotPlainError
        indent, key = len(entry[1]), entry[2]
        if awaits and indent > levels[-1].indent:
            inner: Data = {}
            levels[-1].mapping[awaits] = inner
            levels.append(_Level(indent, f"{levels[-1].prefix}{awaits}.", inner))
        elif dash is not None:
            levels[-1] = levels[-1]._replace(indent=indent)
        while indent < levels[-1].indent:
            levels.pop()
        _, prefix, mapping, items = levels[-1]
        if indent != levels[-1].indent or items is not None:
            raise _NotPlainError
        _enter(mapping, key)
        lines[prefix + key] = number
        start = entry.end()
        awaits = key if _SKIPPED.match(line, start) else ""
        if not awaits:
            mapping[key] = _value(line, start, prefix + key, number, lines)
    return levels[0].mapping


def _item(levels: list[_Level], indent: int, awaits: str, number: int, lines: dict[str, int]) -> None:
    """Opens the mapping behind a dash: of the list that is open there, or of one that the last key awaits."""
    if awaits and indent > levels[-1].indent:
        members: list[Data] = []
        levels[-1].mapping[awaits] = members
        levels.append(_Level(indent, f"{levels[-1].prefix}{awaits}.", {}, members))
    while indent < levels[-1].indent:
        levels.pop()
    items = levels[-1].items
    if items is None or indent != levels[-1].indent:
        raise _NotPlainError
    place = f"{levels[-1].prefix}{len(items)}"
    lines[place] = number
    items.append({})
    # How far in its keys are, the first of them says.
    levels.append(_Level(indent + 1, f"{place}.", items[-1]))


def _enter(mapping: Data, key: str) -> None:
    """Makes `key` known, once."""
    if key in mapping or key.lower() in _AMBIGUOUS:
        raise _NotPlainError
    mapping[key] = None


def _value(line: str, start: int, where: str, number: int, lines: dict[str, int]) -> object:
    """What stands after `key:` on its line."""
    if line[start] in "{[":
        value, end = _flow(line, start, where, number, lines)
        if not _REST.match(line, end):
            raise _NotPlainError
        return value
    return _scalar(_LINE_SCALAR.match(line, start))


def _flow(line: str, start: int, where: str, number: int, lines: dict[str, int]) -> tuple[object, int]:
    """A value inside braces or brackets, and where it ends."""
    if where.count(".") > MAX_DEPTH:
        raise _NotPlainError
    if line.startswith("{", start):
        return _flow_mapping(line, start + 1, where, number, lines)
    if line.startswith("[", start):
        return _flow_list(line, start + 1, where, number, lines)
    found = _FLOW_SCALAR.match(line, start)
    return _scalar(found), -1 if found is None else found.end()


def _flow_mapping(line: str, at: int, where: str, number: int, lines: dict[str, int]) -> tuple[Data, int]:
    out: Data = {}
    closed = line.startswith("}", at)
    end = at + 1
    while not closed:
        field = _FIELD.match(line, at)
        if field is None:
            raise _NotPlainError
        key = field[1]
        _enter(out, key)
        lines[f"{where}.{key}"] = number
        out[key], end = _flow(line, field.end(), f"{where}.{key}", number, lines)
        at, closed = _after(line, end, "}")
        end = at
    return out, end


def _flow_list(line: str, at: int, where: str, number: int, lines: dict[str, int]) -> tuple[list[object], int]:
    out: list[object] = []
    closed = line.startswith("]", at)
    end = at + 1
    while not closed:
        while line.startswith(" ", at):
            at += 1
        place = f"{where}.{len(out)}"
        lines[place] = number
        value, end = _flow(line, at, place, number, lines)
        out.append(value)
        at, closed = _after(line, end, "]")
        end = at
    return out, end


def _after(line: str, at: int, close: str) -> tuple[int, bool]:
    """Where the next member starts, or the collection ends; whether it ends."""
    while line.startswith(" ", at):
        at += 1
    mark = line[at : at + 1]
    if mark not in (",", close) or not mark:
        raise _NotPlainError
    return at + 1, mark == close


def _scalar(found: re.Match[str] | None) -> object:
    if found is None:
        raise _NotPlainError
    text = found[0]
    if found.lastindex == 1:
        return text[1:-1]
    if found.lastindex == 2:
        return int(text)
    if found.lastindex == 3:
        return float(text)
    if text in _WORDS:
        return _WORDS[text]
    if text.lower() in _AMBIGUOUS:
        raise _NotPlainError
    return text
