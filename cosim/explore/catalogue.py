"""The library as lists and details: what `cosim list`, `show` and `schema` print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel

from cosim import documents, library
from cosim.datum import Count
from cosim.errors import SpecError, nearest
from cosim.explore.assumptions import data_of, derived_of, model_facts
from cosim.explore.die import die_facts
from cosim.explore.experiment import Compare, Train, load_study
from cosim.explore.network import network_rows
from cosim.explore.requests import request_details, request_facts
from cosim.explore.search_file import StrategySearch
from cosim.explore.serving.serve_file import Serve
from cosim.explore.sweep_file import Sweep
from cosim.hardware.checks import TOLERANCE, chip_checks
from cosim.hardware.chip import Chip
from cosim.hardware.collectives import CollectiveLibrary
from cosim.hardware.compute import KernelLibrary
from cosim.hardware.load import described, load_chip, load_collectives, load_kernels, load_system
from cosim.hardware.lower import lower_chip
from cosim.hardware.reliability import Reliability, load_reliability
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.optimizers import Optimizer, load_optimizer
from cosim.mapping.plan import Plan, Scenario
from cosim.mapping.serving import Serving, load_serving
from cosim.mapping.software import Software, load_software
from cosim.overrides import Overrides, Varied
from cosim.records import Array, array
from cosim.silicon.technology import Technology, load_technology
from cosim.units import format_si
from cosim.workload.graph import active_parameters, kv_bytes_per_token, model_flop, parameters, prefill_graph
from cosim.workload.hub import is_hub_config
from cosim.workload.load import NETWORK, Workload, load_workload, lower_workload
from cosim.workload.model import Model, ModelArrays
from cosim.workload.network import Network
from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.load import REQUESTS, load_requests

Item = dict[str, Any]
_SCHEMAS: dict[str, type[BaseModel]] = {
    "chip": Chip,
    "system": System,
    "workload": Model,
    "network": Network,
    "requests": RequestPattern,
    "software": Software,
    "serving": Serving,
    "optimizer": Optimizer,
    "technology": Technology,
    "reliability": Reliability,
    "kernels": KernelLibrary,
    "collectives": CollectiveLibrary,
    "plan": Plan,
    "scenario": Scenario,
    "compare": Compare,
    "train": Train,
    "sweep": Sweep,
    "search": StrategySearch,
    "serve": Serve,
}

_Plain = Software | Serving | Optimizer | Technology | Reliability | KernelLibrary | CollectiveLibrary
_PLAIN: dict[str, Callable[[str], _Plain]] = {
    "software": load_software,
    "serving": load_serving,
    "optimizers": load_optimizer,
    "technology": lambda name: (load_reliability if _is_reliability(name) else load_technology)(name),
    "kernels": load_kernels,
    "collectives": load_collectives,
}
"""Kinds of which nothing derives: their numbers are all there is."""


def listing(kind: str) -> list[Item]:
    """Items of a kind with their main numbers; one that cannot be read is listed with the reason."""
    describe = {
        "accelerators": _chip,
        "systems": _system,
        "workloads": _model,
        "requests": _requests,
        "experiments": _experiment,
        "software": _software,
        "serving": _serving,
        "optimizers": _optimizer,
        "technology": _technology,
        "kernels": _kernels,
        "collectives": _collectives,
    }[kind]
    items: list[Item] = []
    for name, path in library.names(kind).items():
        try:
            items.append({"name": name, **describe(str(path))})
        except SpecError as error:
            items.append({"name": name, "title": f"unreadable: {error}"})
    return items


def details(name: str, changes: Overrides | None = None) -> Item:
    """One item whole: data with sources, what derives from them, checks of published totals. Raises SpecError.

    `changes` replace numbers of a system by path ("nodes", "tiers.cluster.radix").
    """
    kind = _kind_of(name)
    if changes and kind != "systems":
        hint = "numbers of a system can be set: cosim show dgx-h100 --set system.nodes=16"
        raise SpecError(f"is of kind '{kind}', of which nothing can be set", field="--set", value=name, hint=hint)
    content: Item = {"kind": kind.removesuffix("s"), "name": name, "derived": [], "checks": []}
    if kind == "experiments":
        study = load_study(name)
        rows = [
            {"path": p, "value": str(v), "kind": "given", "source": study.name, "note": ""} for p, v in study.experiment
        ]
        return {**content, "title": study.experiment.question, "data": rows}
    if kind == "workloads":
        model = load_workload(name)
        about = {"data": model_facts(model), "derived": _model_derived(model), "checks": _model_checks(model)}
        return {**content, "title": model.title, **about}
    if kind == REQUESTS:
        return {**content, **request_details(load_requests(name))}
    if kind in _PLAIN:
        plain = _PLAIN[kind](name)
        return {**content, "title": plain.title, "data": list(data_of(plain))}
    if kind == "systems":
        varied = varied_system(name, changes)
        return {**content, **_of_hardware(varied.spec, varied.spec.chip), **network_rows(varied)}
    chip = load_chip(name)
    return {**content, **_of_hardware(chip, chip)}


def varied_system(name: str, changes: Overrides | None = None) -> Varied[System]:
    """A system of the library, or from a file, with numbers replaced by path. Raises SpecError."""
    return vary_system(Varied(load_system(name)), changes or {})


def _of_hardware(spec: Chip | System, chip: Chip) -> Item:
    """Data of a chip or system, what derives from its chip, checks of its published totals."""
    checks = [
        {
            "check": check.name,
            "published": format_si(check.published, check.unit),
            "derived": format_si(check.derived, check.unit),
            "deviation": f"{check.deviation:+.2%}",
            "verdict": "declared: " + check.reason if check.reason else "holds",
        }
        for check in chip_checks(chip)
    ]
    return {
        "title": spec.title,
        "data": list(data_of(spec)),
        "derived": [*derived_of(chip), *die_facts(chip)],
        "checks": checks,
    }


def schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema of a file kind. Raises SpecError for an unknown one."""
    if kind not in _SCHEMAS:
        raise SpecError("unknown kind of file", value=kind, hint=nearest(kind, _SCHEMAS))
    return _SCHEMAS[kind].model_json_schema()


def _kind_of(name: str) -> str:
    """Kind of a name of the library, or of a file by what it holds."""
    if not name.endswith((".yaml", ".yml", ".json")):
        return library.kind_of(name)
    data = documents.read(library.find("accelerators", name)).data
    if data.get("kind") in (NETWORK, REQUESTS):
        return "workloads" if data["kind"] == NETWORK else REQUESTS
    marks = {
        "tiers": "systems",
        "kind": "experiments",
        "policy": "serving",
        "host_kernel": "software",
        "state_bytes": "optimizers",
        "reticle": "technology",
        "constants": "kernels",
        "protocols": "collectives",
    }
    found = next((kind for mark, kind in marks.items() if mark in data), None)
    return found or ("workloads" if "layers" in data or is_hub_config(data) else "accelerators")


def _chip(path: str) -> Item:
    chip = load_chip(path)
    arrays = lower_chip(chip)
    dram = arrays.memory["dram"]
    peaks = {dtype: float(peak) for dtype, peak in arrays.matrix.peak.items()}
    main = "bf16" if "bf16" in peaks else next(iter(peaks))
    return {
        "title": chip.title,
        main: format_si(peaks[main], "FLOP/s"),
        "dram": f"{format_si(float(dram.capacity), 'B')} at {format_si(float(dram.bandwidth), 'B/s')}",
        "power": format_si(chip.power.limit.si, "W"),
        "price": "unknown" if chip.price is None else chip.price.text,
        "confidence": chip.confidence,
    }


def _system(path: str) -> Item:
    system = load_system(path)
    return {"title": system.title, "chip": system.chip.name, "chips": f"{system.chips:g}"}


def _model(path: str) -> Item:
    model = load_workload(path)
    arrays = lower_workload(Varied(model))
    if isinstance(model, Network):
        macs = _macs(model)
        each = {} if macs is None else {"MAC an item": f"{macs / 1e9:.4g} G"}
        return {"title": model.title, "parameters": f"{float(parameters(arrays)) / 1e9:.4g} B", **each}
    active = {"active": f"{float(active_parameters(arrays)) / 1e9:.4g} B"} if model.experts is not None else {}
    counted = {"parameters": f"{float(parameters(arrays)) / 1e9:.4g} B", **active}
    return {"title": model.title, **counted, "layers": model.layers, "hidden": model.hidden}


def _requests(path: str) -> Item:
    return request_facts(load_requests(path))


def _software(path: str) -> Item:
    software = load_software(path)
    return {"title": software.title, "attention": software.attention, "host per kernel": software.host_kernel.text}


def _serving(path: str) -> Item:
    stack = load_serving(path)
    return {"title": stack.title, "batches": stack.policy, "tokens of a step": stack.token_budget.text}


def _optimizer(path: str) -> Item:
    optimizer = load_optimizer(path)
    kept = "row and column means" if optimizer.weights.factored else f"{optimizer.weights.tensors.text} tensors"
    return {"title": optimizer.title, "state": kept}


def _technology(path: str) -> Item:
    if _is_reliability(path):
        reliability = load_reliability(path)
        return {"title": reliability.title, "components": ", ".join(reliability.components)}
    technology = load_technology(path)
    nodes = ", ".join(node.names[0] for node in technology.nodes)
    return {"title": technology.title, "nodes": nodes, "reticle": technology.reticle.text}


def _is_reliability(name: str) -> bool:
    """Whether a technology file tells of failures, not of silicon."""
    return "components" in described(name, "technology")[0]


def _kernels(path: str) -> Item:
    kernels = load_kernels(path)
    return {
        "title": kernels.title,
        "constants": len(kernels.constants),
        "fitted on": ", ".join(kernels.fitted_on) or "no chip",
    }


def _collectives(path: str) -> Item:
    shared = load_collectives(path)
    return {
        "title": shared.title,
        "protocols": ", ".join(shared.protocols),
        "algorithms": ", ".join(shared.algorithms),
        "fitted on": ", ".join(shared.fitted_on) or "no system",
    }


def _experiment(path: str) -> Item:
    study = load_study(path)
    return {"title": study.experiment.question, "kind": study.experiment.kind}


def _macs(network: Network) -> float | None:
    """Multiply-accumulates of one item, counted from the products of the graph; None where they go with the tokens."""
    arrays, one = lower_workload(Varied(network)), array(1.0)
    if arrays.has_tokens:
        return None
    return float(np.max(model_flop(arrays, prefill_graph(arrays, one, one)))) / 2.0


def _model_checks(model: Workload) -> list[Item]:
    """Published counts of parameters, and of a network's multiply-accumulates, against those of the graph."""
    arrays = lower_workload(Varied(model))
    other: tuple[str, Count | None, Array | float | None]
    if isinstance(model, Network):
        other = ("macs", model.published_macs, _macs(model))
    else:
        other = ("active_parameters", model.published_active_parameters, active_parameters(arrays))
    pairs = (("parameters", model.published_parameters, parameters(arrays)), other)
    checks = []
    for name, published, derived in pairs:
        if published is not None and derived is not None:
            count = float(np.max(derived))
            deviation = count / published.si - 1.0
            shown = {"published": f"{published.si:,.6g}", "derived": f"{count:,.6g}", "deviation": f"{deviation:+.2%}"}
            checks.append({"check": name, **shown, "verdict": "holds" if abs(deviation) <= TOLERANCE else "differs"})
    return checks


def _model_derived(model: Workload) -> list[Item]:
    """What is counted from the graph."""
    arrays = lower_workload(Varied(model))
    rows = [("parameters", f"{float(np.max(parameters(arrays))):,.0f}")]
    if isinstance(model, Network):
        macs = _macs(model)
        rows.append(("macs_per_item", "follow from scenario.context" if macs is None else f"{macs:,.0f}"))
    else:
        rows += _of_model(model, arrays)
    return [{"path": p, "value": v, "kind": "derived", "source": "from the graph", "note": ""} for p, v in rows]


def _of_model(model: Model, arrays: ModelArrays) -> list[tuple[str, str]]:
    """What a decoder transformer has besides: weights of one token, bytes of its cache."""
    rows = []
    if model.experts is not None:
        active = float(np.max(active_parameters(arrays)))
        table = float(model.vocab * model.hidden)
        rows += [
            ("parameters.active", f"{active:,.0f}"),
            ("parameters.active_with_embedding", f"{active + (0.0 if model.tied_embeddings else table):,.0f}"),
        ]
    kv = float(np.max(kv_bytes_per_token(arrays, 2.0)))
    return [*rows, ("kv_cache_per_token.bf16", format_si(kv, "B"))]
