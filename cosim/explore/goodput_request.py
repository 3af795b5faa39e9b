"""A long run in words to its goodput: what the command line asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cosim.errors import SpecError
from cosim.explore.goodput import Goodput, goodput
from cosim.explore.goodput_asked import Asked
from cosim.explore.request import estimate_request
from cosim.hardware.reliability import NAME, Reliability, load_reliability
from cosim.overrides import ROOTS, Varied, split_overrides, vary


def goodput_request(
    system: str,
    workload: str,
    asked: Asked,
    overrides: Mapping[str, Any],
    *,
    reliability: str = NAME,
    stragglers: Sequence[str] = (),
) -> Goodput:
    """Goodput of a run of named system and workload; `overrides` may begin with reliability too. Raises SpecError.

    `stragglers` are texts CHIP=FACTOR.
    """
    parts = split_overrides(overrides, (*ROOTS, "reliability"))
    data = varied_reliability(reliability, parts.pop("reliability"))
    below = {f"{root}.{path}": value for root, part in parts.items() for path, value in part.items()}
    named = stragglers_named(stragglers)
    return goodput(estimate_request("train", system, workload, below), data, replace(asked, stragglers=named))


def varied_reliability(name: str, changes: Mapping[str, Any]) -> Reliability:
    """The reliability called `name` with numbers replaced by path. Raises SpecError."""
    varied = vary(Varied(load_reliability(name)), changes, root="reliability.")
    if varied.arrays:
        path = next(iter(varied.arrays))
        raise SpecError("is an array: a run has one value", field=f"reliability.{path}")
    return varied.spec


def stragglers_named(texts: Sequence[str]) -> dict[int, float]:
    """Factors by chip from texts CHIP=FACTOR. Raises SpecError."""
    named = [_straggler(text) for text in texts]
    chips = [chip for chip, _ in named]
    twice = next((chip for chip in chips if chips.count(chip) > 1), None)
    if twice is not None:
        raise SpecError("is named twice", field="straggler", value=twice, hint="one factor a chip")
    return dict(named)


def _straggler(text: str) -> tuple[int, float]:
    chip, equals, factor = text.partition("=")
    try:
        found = int(chip), float(factor)
    except ValueError:
        equals = ""
    if not equals:
        raise SpecError("is not CHIP=FACTOR", field="straggler", value=text, hint="for example 17=1.2")
    return found
