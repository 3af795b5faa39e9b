"""Units at the border: people write "3.35 TB/s", the inside holds SI floats.

A unit is a product of factors joined by "/", "*" or a blank; a factor is a prefix and a base unit.
GB = 1e9 B, GiB = 2**30 B, b = bit = 1/8 B. 1 FMA = 2 FLOP. Area stays mm2 and money USD by custom.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from cosim.errors import SpecError, nearest

_DIMENSIONS = ("B", "s", "FLOP", "J", "USD", "mm2", "cycle", "g", "op", "mm")
Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """`scale` converts to SI; `dims` are the exponents of the base dimensions."""

    scale: float
    dims: Dims


def _dims(**powers: int) -> Dims:
    return tuple(powers.get(name, 0) for name in _DIMENSIONS)


_BASE: dict[str, Unit] = {
    "": Unit(1.0, _dims()),
    "%": Unit(0.01, _dims()),
    "B": Unit(1.0, _dims(B=1)),
    "byte": Unit(1.0, _dims(B=1)),
    "b": Unit(0.125, _dims(B=1)),
    "bit": Unit(0.125, _dims(B=1)),
    "s": Unit(1.0, _dims(s=1)),
    "min": Unit(60.0, _dims(s=1)),
    "h": Unit(3600.0, _dims(s=1)),
    "year": Unit(365.25 * 86400.0, _dims(s=1)),
    "Hz": Unit(1.0, _dims(s=-1)),
    "FLOP": Unit(1.0, _dims(FLOP=1)),
    "FLOPS": Unit(1.0, _dims(FLOP=1, s=-1)),
    "op": Unit(1.0, _dims(op=1)),
    "J": Unit(1.0, _dims(J=1)),
    "W": Unit(1.0, _dims(J=1, s=-1)),
    "Wh": Unit(3600.0, _dims(J=1)),
    "USD": Unit(1.0, _dims(USD=1)),
    "$": Unit(1.0, _dims(USD=1)),
    "mm2": Unit(1.0, _dims(mm2=1)),
    "um2": Unit(1e-6, _dims(mm2=1)),
    "mm": Unit(1.0, _dims(mm=1)),
    "cycle": Unit(1.0, _dims(cycle=1)),
    "clk": Unit(1.0, _dims(cycle=1)),
    "g": Unit(1.0, _dims(g=1)),
}
_NO_PREFIX = {"", "%", "min", "h", "year", "mm2", "um2", "mm", "cycle", "clk", "$", "USD"}
_PREFIX: dict[str, float] = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}
_QUANTITY = re.compile(r"^\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf|-inf)\s*(.*?)\s*$")
_SHOWN = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SHOWN_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))


@lru_cache(maxsize=1024)
def parse_unit(text: str) -> Unit:
    """Unit of `text` ("TB/s", "pJ/bit"). Raises SpecError with the nearest known unit."""
    scale, dims, sign = 1.0, _dims(), 1
    for word in re.split(r"([/* ])", text.strip()):
        if word == "/":
            sign = -1
        elif word not in ("*", " ", ""):
            factor = _factor(word)
            scale *= factor.scale**sign
            dims = tuple(a + sign * b for a, b in zip(dims, factor.dims, strict=True))
            sign = 1
    return Unit(scale, dims)


def to_si(value: float, unit: str, expected: str) -> float:
    """SI value of `value unit`; the dimension must be that of `expected`. Raises SpecError."""
    found, wanted = parse_unit(unit), parse_unit(expected)
    if found.dims != wanted.dims:
        wish = f"a value in {expected or 'no unit'} is wanted"
        if parse_unit(f"{unit}/s").dims == wanted.dims:
            wish = f"did you mean {value:g} {unit}/s? {wish}"
        raise SpecError("wrong unit", value=f"{value:g} {unit}".strip(), hint=wish)
    # 5 us is 5 / 1e6, the nearest float to it; 5 * 1e-6 is not.
    inverse = round(1.0 / found.scale) if found.scale < 1.0 else 0
    return value / inverse if inverse and math.isclose(inverse * found.scale, 1.0) else value * found.scale


def parse_quantity(text: str | float, expected: str) -> float:
    """SI value of "3.35 TB/s", or of a bare number, which is taken as SI already. Raises SpecError."""
    if isinstance(text, bool):
        raise SpecError("is not a number", value=text, hint=f"write a number with a unit such as {expected}")
    if isinstance(text, int | float):
        try:
            return float(text)
        except OverflowError:
            raise SpecError("is too large for a number", value=text) from None
    match = _QUANTITY.match(text)
    if match is None:
        raise SpecError("is not a number with a unit", value=text, hint=f"write for example '1 {expected}'".rstrip())
    number = float(match.group(1).replace("_", ""))
    return number if match.group(2) == "" else to_si(number, match.group(2), expected)


def is_bare_number(text: str) -> bool:
    """Whether `text` is a number without a unit."""
    match = _QUANTITY.match(text)
    return match is not None and match.group(2) == ""


def format_si(value: float, unit: str, digits: int = 4) -> str:
    """`value` in SI as people read it: 3.35e12, "B/s" -> "3.35 TB/s"."""
    if not math.isfinite(value) or value == 0.0 or unit in ("", "USD", "mm2", "FLOP/cycle", "B/cycle"):
        whole = math.isfinite(value) and value == round(value) and abs(value) < 1e15
        return (f"{value:,.0f}" if whole else f"{value:,.{digits}g}") + (f" {unit}" if unit else "")
    small = unit[0] in "sJ" and abs(value) < 1.0
    steps = _SHOWN_SMALL if small else _SHOWN
    scale, prefix = next(((s, p) for s, p in steps if abs(value) >= s), steps[-1])
    return f"{value / scale:.{digits}g} {prefix}{unit}"


def _factor(token: str) -> Unit:
    if token in _BASE:
        return _BASE[token]
    for length in (2, 1):
        prefix, base = token[:length], token[length:]
        if prefix in _PREFIX and base in _BASE and base not in _NO_PREFIX:
            return Unit(_PREFIX[prefix] * _BASE[base].scale, _BASE[base].dims)
    if token.endswith("USD") and token[:-3] in _PREFIX:
        return Unit(_PREFIX[token[:-3]], _dims(USD=1))
    known = [p + b for b in _BASE for p in ("", "G", "T", "u", "p") if b and b not in _NO_PREFIX]
    raise SpecError("unknown unit", value=token, hint=nearest(token, known))
