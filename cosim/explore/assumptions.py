"""Every number a study rests on, with unit, kind and source: the list at the end of the page, and `show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from cosim.datum import Datum
from cosim.explore.experiment import Compare, Train
from cosim.hardware.chip import Chip
from cosim.hardware.system import System
from cosim.mapping.software import load_software
from cosim.overrides import Varied
from cosim.workload.load import Workload
from cosim.workload.network import Network

Assumption = dict[str, Any]


def assumptions(
    systems: dict[str, Varied[System]], models: Sequence[Workload], study: Compare | Train
) -> dict[str, list[Assumption]]:
    """By subject: every datum of each system and chip, of the models, the training software, the study's choices."""
    listed = {name: list(data_of(varied.spec)) for name, varied in systems.items()}
    listed |= {model.name: model_facts(model) for model in models}
    training = study if isinstance(study, Train) else study.training
    if training is not None:
        listed[training.software] = list(data_of(load_software(training.software)))
    equal = study.equal_quality
    chosen = [(f"equal_quality.{name}", value) for name, value in equal if name != "source"]
    listed["study"] = [
        {"path": path, "value": f"{value:g}", "kind": "given", "source": equal.source, "note": ""}
        for path, value in chosen
    ]
    return listed


def data_of(spec: BaseModel, prefix: str = "") -> Iterator[Assumption]:
    """Every datum below a description: path, value as people read it, kind, source, note."""
    for name in type(spec).model_fields:
        if name != "sources":
            yield from _below(getattr(spec, name), f"{prefix}.{name}" if prefix else name)


def model_facts(model: Workload) -> list[Assumption]:
    """Dimensions and choices of a model, or layers of a network, with their one source."""
    skip = {"name", "title", "source", "published_parameters", "published_active_parameters", "published_macs"}
    if isinstance(model, Network):
        layers = [(f"layers.{layer.name}", layer_text(layer)) for layer in model.layers]
        rows = [("input", model.input), ("max_positions", model.max_positions), *layers]
        about = {"kind": "published", "source": model.source, "note": _ITEMS}
        return [{"path": path, "value": str(value), **about} for path, value in rows if value] + list(data_of(model))
    facts = [
        {"path": name, "value": str(getattr(model, name)), "kind": "published", "source": model.source, "note": ""}
        for name in type(model).model_fields
        if name not in skip and getattr(model, name) is not None
    ]
    return facts + list(data_of(model))


_ITEMS = "in tokens/s an item counts as one token where no layer has tokens"


def layer_text(layer: BaseModel) -> str:
    """A layer of a network in one line: kind and what differs from the defaults."""
    fields = type(layer).model_fields
    given = {name: getattr(layer, name) for name in fields if name not in ("name", "kind")}
    shown = [f"{name} {value}" for name, value in given.items() if value != fields[name].default]
    return " ".join([str(getattr(layer, "kind", "")), *shown])


def derived_of(chip: Chip) -> list[Assumption]:
    """What follows from a chip's primaries: peaks, bandwidths, ridge points."""
    from cosim.hardware.lower import lower_chip
    from cosim.units import format_si

    arrays = lower_chip(chip)
    dram = float(arrays.memory["dram"].bandwidth)
    rows = [(f"matrix.peak.{d}", format_si(float(p), "FLOP/s"), "derived") for d, p in arrays.matrix.peak.items()]
    rows += [
        (f"memory.{r}.bandwidth", format_si(float(m.bandwidth), "B/s"), "derived") for r, m in arrays.memory.items()
    ]
    rows += [(f"memory.{r}.capacity", format_si(float(m.capacity), "B"), "derived") for r, m in arrays.memory.items()]
    rows += [(f"links.{n}.bandwidth", format_si(float(b), "B/s"), "derived") for n, b in arrays.links.items()]
    rows += [(f"ridge.{d}", f"{float(p) / dram:,.4g} FLOP/B", "derived") for d, p in arrays.matrix.peak.items()]
    rows.append(("power.per_area", _per_area(chip), "derived"))
    formula = "from the primaries above"
    return [{"path": p, "value": v, "kind": k, "source": formula, "note": ""} for p, v, k in rows]


def _per_area(chip: Chip) -> str:
    return "unknown" if chip.die.area is None else f"{chip.power.limit.si / chip.die.area.si:.3g} W/mm2"


def _below(node: object, path: str) -> Iterator[Assumption]:
    if isinstance(node, Datum):
        yield {"path": path, "value": node.text, "kind": node.kind, "source": node.source, "note": node.note or ""}
    elif isinstance(node, BaseModel):
        yield from data_of(node, path)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _below(value, f"{path}.{key}")
    elif isinstance(node, tuple):
        for index, value in enumerate(node):
            yield from _below(value, f"{path}.{getattr(value, 'name', index)}")
