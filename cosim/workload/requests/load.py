"""From a name or a file to a description of requests."""

from __future__ import annotations

from pathlib import Path

from cosim import documents, library
from cosim.errors import SpecError
from cosim.schema import validated
from cosim.workload.requests.description import RequestPattern

REQUESTS = "requests"


def load_requests(name: str) -> RequestPattern:
    """The requests called `name`, or in the file `name`; data files that it names get whole paths. Raises SpecError."""
    document = documents.read(library.find(REQUESTS, name))
    kind = document.data.get("kind")
    if kind != REQUESTS:
        line = document.line("kind")
        hint = "a description of requests begins with kind: requests"
        raise SpecError("is not requests", file=document.path, line=line, field="kind", value=kind, hint=hint)
    pattern = validated(RequestPattern, document.data, document)
    folder = document.path.parent
    if pattern.trace is not None:
        trace = pattern.trace.model_copy(update={"file": _whole(folder, pattern.trace.file)})
        return pattern.model_copy(update={"trace": trace})
    if pattern.joint is not None and pattern.joint.file is not None:
        joint = pattern.joint.model_copy(update={"file": _whole(folder, pattern.joint.file)})
        return pattern.model_copy(update={"joint": joint})
    return pattern


def _whole(folder: Path, file: str) -> str:
    return str(folder / file)
