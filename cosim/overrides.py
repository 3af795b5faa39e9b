"""Dotted paths into a description: list them, set them, validate what was set.

A value may be text with a unit ("4 TB/s"), a bare SI number, or an array along the points axis. An array
must pass the field's bounds with its least and its greatest element, and is kept beside the description:
descriptions hold scalars, `lower` joins the two.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel

from cosim.datum import Datum
from cosim.errors import SpecError, nearest
from cosim.records import Array, array
from cosim.schema import validated

Spec = TypeVar("Spec", bound=BaseModel)
Overrides = Mapping[str, Any]
ROOTS = ("system", "workload", "plan", "scenario")
"""What a dotted path may start with."""


@dataclass(frozen=True)
class Varied(Generic[Spec]):
    """A description and the arrays that replace some of its numbers, by path."""

    spec: Spec
    arrays: Mapping[str, Array] = field(default_factory=dict)
    touched: frozenset[str] = frozenset()
    """Every path that was ever set, arrays and scalars."""


def paths(spec: BaseModel) -> dict[str, object]:
    """Every path of `spec` that can be set, with its present value (None where the field is empty)."""
    found: dict[str, object] = {}
    _walk(spec, "", found)
    return found


def vary(varied: Varied[Spec], overrides: Overrides, root: str = "") -> Varied[Spec]:
    """`varied` with `overrides` set and validated. `root` is what the messages put before a path.

    Raises SpecError for an unknown path (nearest named), a wrong unit, a value out of bounds.
    """
    known = paths(varied.spec)
    dump = varied.spec.model_dump(mode="python", exclude_none=True)
    arrays = dict(varied.arrays)
    fresh: dict[str, Array] = {}
    for path, value in overrides.items():
        own = canonical(path, varied.spec)
        if own not in known:
            raise SpecError(
                "unknown path",
                field=f"{root}{path}",
                hint=nearest(path, known, root),
            )
        if _is_array(value, known[own]):
            if isinstance(known[own], bool | str):
                raise SpecError("is a choice: an array of points must hold numbers", field=f"{root}{path}")
            fresh[own] = _points_of(value, f"{root}{path}")
        else:
            arrays.pop(own, None)
            plain = value.item() if isinstance(value, np.generic | np.ndarray) else value
            _set(dump, own, _listed(plain, known[own], f"{root}{path}"))
    _check_points(type(varied.spec), dump, {**arrays, **fresh}, root)
    touched = varied.touched | {canonical(path, varied.spec) for path in overrides}
    for path, values in fresh.items():
        _set(dump, path, float(values[0]))
    return Varied(_revalidated(type(varied.spec), dump, root), {**arrays, **fresh}, touched)


def value_at(spec: BaseModel, path: str) -> object:
    """What stands at `path` of a description; None where nothing does."""
    node: Any = spec
    for part in canonical(path, spec).split("."):
        if isinstance(node, tuple):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        else:
            node = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
    return node


def split_overrides(
    overrides: Mapping[str, Any], roots: tuple[str, ...], fields: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Overrides by root: {"system": {"nodes": 2}}; `fields` stand alone, under "". Raises SpecError for others."""
    parts: dict[str, dict[str, Any]] = {root: {} for root in (*roots, *(("",) if fields else ()))}
    for path, value in overrides.items():
        root, _, rest = path.partition(".")
        if path in fields:
            root, rest = "", path
        elif root not in roots:
            rest = ""
        if not rest:
            alone = f" or is one of {', '.join(fields)}" if fields else ""
            near = f"it goes on: {path}.FIELD" if path in roots else nearest(root, (*roots, *fields))
            hint = f"a path starts with one of {', '.join(roots)}{alone}; {near}"
            if root in ("chip", "tiers", "nodes", "server", "facility"):
                hint = f"did you mean system.{path}?"
            raise SpecError("unknown path", field=path, hint=hint)
        parts[root][rest] = value
    return parts


def _is_array(value: object, present: object) -> bool:
    if not isinstance(value, np.ndarray | list | tuple) or isinstance(present, list | tuple):
        return False
    return np.ndim(np.asarray(value, dtype=object)) > 0


def _listed(value: object, present: object, field: str) -> object:
    """Text such as "[4, 4, 8]" or "4x4x8" as the list that it says, where a list stands; all else as it is.

    Raises SpecError.
    """
    if not (isinstance(value, str) and isinstance(present, list | tuple)):
        return value
    if re.fullmatch(r"\d+(x\d+)+", value):
        return [int(length) for length in value.split("x")]
    try:
        read = json.loads(value)
    except ValueError:
        read = None
    if not isinstance(read, list):
        raise SpecError("is a list", field=field, value=value, hint='written as [4, 4, 8], 4x4x8 or ["ring", "tree"]')
    return read


def _points_of(value: object, field: str) -> Array:
    """An override as an array of points [P]. Raises SpecError."""
    try:
        values = array(value)
    except (TypeError, ValueError):
        raise SpecError("an array of points must hold numbers", field=field, value=value) from None
    if values.ndim != 1 or values.size == 0:
        raise SpecError("an array of points has one dimension and is not empty", field=field)
    if not np.all(np.isfinite(values)):
        raise SpecError("holds NaN or infinity", field=field)
    return values


def _check_points(model: type[Spec], dump: dict[str, Any], arrays: Mapping[str, Array], root: str) -> None:
    """Validates the points at which an array is least, greatest or farthest from whole, all arrays together."""
    lengths = {len(values) for values in arrays.values() if len(values) > 1}
    if len(lengths) > 1:
        raise SpecError(f"arrays of different lengths: {sorted(lengths)}", field=root.rstrip(".") or None)
    chosen: set[int] = set()
    for values in arrays.values():
        chosen |= {int(values.argmin()), int(values.argmax()), int(np.abs(values - np.rint(values)).argmax())}
    trial = copy.deepcopy(dump)
    for index in sorted(chosen):
        for path, values in arrays.items():
            _set(trial, path, float(values[index if len(values) > 1 else 0]))
        _revalidated(model, trial, root)


def _revalidated(model: type[Spec], dump: dict[str, Any], root: str) -> Spec:
    try:
        return validated(model, dump)
    except SpecError as error:
        # A datum set by a bare value has no fields of its own in the user's words.
        where = f"{root}{error.field.removesuffix('.value')}" if error.field else root.rstrip(".")
        raise SpecError(error.problem, field=where, value=error.value, hint=error.hint) from None


def _set(node: Any, path: str, value: object) -> None:  # noqa: ANN401  # a dump is nested plain data
    *parents, last = path.split(".")
    for part in parents:
        if isinstance(node, tuple | list):
            node = node[int(part)]
        else:
            if part not in node:
                node[part] = {}
            node = node[part]
    node[last] = value


def canonical(path: str, spec: BaseModel) -> str:
    """The path with members of lists by number: tiers.node.size is tiers.0.size."""
    node: Any = spec
    out: list[str] = []
    for word in path.split("."):
        part = word
        if isinstance(node, tuple):
            named = [i for i, item in enumerate(node) if getattr(item, "name", None) == word]
            part = str(named[0]) if named else word
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        elif isinstance(node, dict):
            node = node.get(part)
        else:
            node = getattr(node, part, None)
        out.append(part)
    return ".".join(out)


def _walk(node: object, prefix: str, found: dict[str, object]) -> None:
    if isinstance(node, Datum) or not isinstance(node, BaseModel | dict | tuple):
        found[prefix] = node
        return
    if isinstance(node, BaseModel):
        items = [(name, getattr(node, name)) for name in type(node).model_fields]
        rate = getattr(node, "rate", None)
        if isinstance(rate, dict):
            items += [(f"peak.{dtype}", None) for dtype in rate]
    elif isinstance(node, dict):
        items = list(node.items())
    else:
        found[prefix] = node
        items = [(str(index), item) for index, item in enumerate(node) if isinstance(item, BaseModel)]
    for name, value in items:
        if name not in ("sources", "deviations", "published"):
            _walk(value, f"{prefix}.{name}" if prefix else str(name), found)
