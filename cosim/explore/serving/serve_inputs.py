"""A serving study read: deployments made ready, requests found, limits set, every fault at its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosim.documents import Document
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.serving.demand import block_tokens_of, pattern_of, varied_pattern
from cosim.explore.serving.deployed import FIELDS, ROOTS, Changes, Deployed, deployed, files_of, varied_deployment
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.serve_file import Deployment, Serve
from cosim.overrides import Varied, split_overrides, vary
from cosim.schema import validated
from cosim.workload.requests.description import RequestPattern

STUDY = ("seeds", "seed", "warm_up")
"""Fields of a study that may be overridden as they stand."""
_LEAST = {"kind": "serve", "question": "", "system": "any", "workload": "any", "requests": "any"}


@dataclass(frozen=True, slots=True)
class Inputs:
    """A serving study that can be simulated: deployments by name, or why one cannot be; its requests, its limits."""

    study: Serve
    ready: Mapping[str, Deployed]
    infeasible: Mapping[str, tuple[Deployment, InfeasibleError]]
    patterns: Mapping[str, RequestPattern]
    limits: Limits
    files: tuple[Path, ...]
    changes: Changes


def read_serve(study: Serve, overrides: Mapping[str, Any], document: Document | None = None) -> Inputs:
    """The study with overrides. Raises SpecError at its line, InfeasibleError where no deployment is feasible."""
    changes = split_overrides(overrides, ROOTS, (*FIELDS, *STUDY))
    study = _varied_study(study, changes[""])
    limits = vary(Varied(study.limits), changes["limits"], root="limits.").spec
    folder = None if document is None else document.path.parent
    ready, wrong, patterns = {}, {}, {}
    try:
        pattern, files = pattern_of(study.requests, folder)
        tokens = block_tokens_of(pattern)
    except SpecError as error:
        raise _placed(error, document, "", "requests") from None
    for name, given in study.merged().items():
        # What is wrong with an override is on no line of the file.
        asked = varied_deployment(given, changes)
        try:
            patterns[name] = varied_pattern(pattern, asked.scenario)
            ready[name] = deployed(name, asked, {root: changes[root] for root in ("system", "workload")}, tokens)
        except InfeasibleError as error:
            wrong[name] = (asked, error)
        except SpecError as error:
            raise _placed(error, document, f"deployments.{name}." if study.deployments else "", "system") from None
    if not ready:
        raise next(error for _, error in wrong.values())
    files += [path for each in ready.values() for path in files_of(each.asked)]
    own = () if document is None else (document.path,)
    return Inputs(
        study,
        ready,
        wrong,
        patterns,
        Limits(limits.ttft, limits.tpot, limits.e2e),
        (*own, *dict.fromkeys(files)),
        changes,
    )


def _varied_study(study: Serve, changes: Mapping[str, Any]) -> Serve:
    """The study with other seeds or another warm-up. Raises SpecError."""
    own = {name: value for name, value in changes.items() if name in STUDY}
    if not own:
        return study
    read = validated(Serve, {**_LEAST, **own})
    return study.model_copy(update={name: getattr(read, name) for name in own})


def _placed(error: SpecError, document: Document | None, at: str, other: str) -> SpecError:
    """The error with the line of the study that it is about: the field's own, else that of the section `other`."""
    if document is None:
        return error
    field = error.field or ""
    for path in (f"{at}{field}", field, f"{at}scheduler.{field}", f"scheduler.{field}", f"{at}{other}", other):
        if path in document.lines:
            return error.at(file=document.path, line=document.lines[path])
    return error.at(file=document.path, line=document.line(at.rstrip(".")))
