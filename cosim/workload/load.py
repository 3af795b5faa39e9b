"""From files to workloads: a cosim description (YAML), or a hub `config.json` as it is."""

from __future__ import annotations

from cosim import documents, library
from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.schema import validated
from cosim.workload.hub import from_hub, is_hub_config
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.network import Network, lower_network

Workload = Model | Network
NETWORK = "network"


def load_workload(name: str) -> Workload:
    """The workload called `name`, or in the file `name`: a network where its kind says so, or a model.

    Raises SpecError.
    """
    document = documents.read(library.find("workloads", name))
    kind = document.data.get("kind")
    if kind == NETWORK:
        return validated(Network, document.data, document)
    if kind is not None:
        hint = "network; leave it out for a decoder transformer"
        raise SpecError(
            "unknown kind of workload",
            file=document.path,
            line=document.line("kind"),
            field="kind",
            value=kind,
            hint=hint,
        )
    if document.path.suffix == ".json" and is_hub_config(document.data):
        stem = document.path.parent.name if document.path.stem == "config" else document.path.stem
        return from_hub(document, stem)
    return validated(Model, document.data, document)


def load_model(name: str) -> Model:
    """The decoder transformer called `name`, or in the file `name` (YAML or hub JSON). Raises SpecError."""
    found = load_workload(name)
    if isinstance(found, Network):
        raise SpecError("is a network of layers: a decoder transformer is asked for", field="workload", value=name)
    return found


def lower_workload(varied: Varied[Workload]) -> ModelArrays:
    """Arrays of a model or a network with its overrides."""
    if isinstance(varied.spec, Network):
        return lower_network(Varied(varied.spec, varied.arrays, varied.touched))
    return lower_model(Varied(varied.spec, varied.arrays, varied.touched))
