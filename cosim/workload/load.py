"""From files to models: a cosim description (YAML), or a hub `config.json` as it is."""

from __future__ import annotations

from cosim import documents, library
from cosim.schema import validated
from cosim.workload.hub import from_hub, is_hub_config
from cosim.workload.model import Model


def load_model(name: str) -> Model:
    """The model called `name`, or in the file `name` (YAML or hub JSON). Raises SpecError."""
    path = library.find("workloads", name)
    document = documents.read(path)
    if path.suffix == ".json" and is_hub_config(document.data):
        stem = path.parent.name if path.stem == "config" else path.stem
        return from_hub(document, stem)
    return validated(Model, document.data, document)
