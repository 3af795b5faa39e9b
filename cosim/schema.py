"""pydantic at the border: frozen models that forbid unknown fields, and their errors in our words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cosim.documents import Document
from cosim.errors import SpecError, nearest


class Frozen(BaseModel):
    """Base of every description: immutable, no unknown field, NaN and infinity refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class Source(Frozen):
    """Where numbers come from. `checked` is false for what nobody has verified; the mark travels."""

    text: str
    checked: bool = True


Model = TypeVar("Model", bound=BaseModel)


SHOULD = "Input should be "
"""How pydantic begins what is wrong with a value."""


def validated(
    model: type[Model], data: Mapping[str, Any], document: Document | None = None, inherited: Iterable[Document] = ()
) -> Model:
    """`data` as a `model`. Raises one SpecError for the first fault, with file, line, field and value.

    A field that came from a base file is reported in that file: `inherited` are those documents.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _in_our_words(error, model, document, tuple(inherited)) from None


def field_names(model: type[BaseModel]) -> list[str]:
    """Names that a file may use in `model`: aliases where they exist."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _in_our_words(
    error: ValidationError, model: type[BaseModel], document: Document | None, inherited: tuple[Document, ...]
) -> SpecError:
    # A field that is unknown explains one that is missing: a slip of the pen makes both.
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    first = faults[0]
    dotted = _dotted(model, first["loc"])
    # A field that may be of several kinds has a fault for each of them.
    others = [fault for fault in faults[1:] if _dotted(model, fault["loc"]) == dotted]
    hint: str | None = None
    value: object = first.get("input")
    problem = first["msg"].removeprefix("Value error, ")
    if others and all(fault["msg"].startswith(SHOULD) for fault in (first, *others)):
        problem = ", or ".join([problem, *(fault["msg"].removeprefix(SHOULD) for fault in others)])
    if first["type"] == "extra_forbidden":
        problem, hint = "unknown field", nearest(str(first["loc"][-1]), _siblings(model, first["loc"]))
    elif first["type"] == "missing":
        problem, value = "is missing", None
    inner = (first.get("ctx") or {}).get("error")
    if isinstance(inner, SpecError):
        problem, value, hint = inner.problem, inner.value, inner.hint
        dotted = ".".join(part for part in (dotted, inner.field or "") if part)
    elif isinstance(value, (dict, list)) and len(str(value)) > 120:
        value = None
    more = len(faults) - 1 - len(others)
    if more:
        hint = f"{hint}; {more} more after it" if hint else f"{more} more after it"
    asked = dotted.removesuffix(".value")
    holder = next((d for d in (document, *inherited) if d is not None and asked in d.lines), document)
    return SpecError(
        problem,
        file=None if holder is None else holder.path,
        line=None if holder is None else holder.line(dotted),
        field=dotted or None,
        value=value,
        hint=hint,
    )


def _dotted(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """A location in the user's words."""
    return ".".join(str(part) for at, part in enumerate(place) if not _is_machinery(model, place[: at + 1]))


def _is_machinery(model: type[BaseModel], place: tuple[int | str, ...]) -> bool:
    """pydantic adds the tag of a union or the name of a validator to the location: not the user's words."""
    part = str(place[-1])
    tag = part in ("tile", "systolic", "roofline") and part not in _siblings(model, place)
    # The word after the number of a list of several kinds, or after a field of several, says which of them it is.
    before, owners = next(reversed(place[:-1]), None), _owners(model, place)
    of_field = part in {_kind_of(owner) for owner in owners} and part not in _siblings(model, place)
    tag = tag or (len(owners) > 1 and (isinstance(before, int) or of_field))
    return tag or "[" in part or part in ("function-before", "function-after") or part.startswith("constrained-")


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names known where an unknown one was found."""
    return list(dict.fromkeys(name for owner in _owners(model, location) for name in field_names(owner)))


def _owners(model: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """Descriptions that the last part of a location may belong to, by walking the annotations.

    A word after the number of a list of several kinds says which of them it is.
    """
    known: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        below: list[type[BaseModel]] = []
        for owner in known:
            info = owner.model_fields.get(str(part))
            below += _models_in(info.annotation if info is not None else None)
        tagged = [owner for owner in known if _kind_of(owner) == part]
        known = below or (tagged if len(known) > 1 and tagged else known)
    return known


def _kind_of(owner: type[BaseModel]) -> str | None:
    """The word that a description of a list of several kinds bears, if it bears one."""
    info = owner.model_fields.get("kind")
    words = get_args(info.annotation) if info is not None else ()
    return str(words[0]) if len(words) == 1 else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401  # annotations are any object
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]
