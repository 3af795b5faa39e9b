"""Requests of a serving study: read, with what the scenario says otherwise, and as the simulation takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cosim import library
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.settings import ClosedLoop
from cosim.errors import SpecError
from cosim.explore.serving.serve_file import ServingScenario
from cosim.workload.requests.description import Closed, RequestPattern
from cosim.workload.requests.load import REQUESTS, load_requests
from cosim.workload.requests.records import Requests
from cosim.workload.requests.stream import closed_loop, request_stream

ROWS = 8192
"""Requests drawn at a time."""


def pattern_of(asked: str | RequestPattern, folder: Path | None = None) -> tuple[RequestPattern, list[Path]]:
    """The description of the requests and its files; one that is named may lie in `folder`. Raises SpecError."""
    if isinstance(asked, RequestPattern):
        return _beside(asked, folder), []
    name = asked
    if folder is not None and not Path(name).is_file() and (folder / name).is_file():
        name = str(folder / name)
    pattern = load_requests(name)
    return pattern, [library.find(REQUESTS, name)]


def _beside(pattern: RequestPattern, folder: Path | None) -> RequestPattern:
    """Data files of a description that stands in a study are beside the study."""
    if folder is None or pattern.trace is None:
        return pattern
    trace = pattern.trace.model_copy(update={"file": str(folder / pattern.trace.file)})
    return pattern.model_copy(update={"trace": trace})


def hashes_of_data(pattern: RequestPattern) -> dict[str, str]:
    """Content hash of every table of requests that a description names, by name. Raises SpecError."""
    named = [pattern.trace, pattern.joint]
    paths = [Path(each.file) for each in named if each is not None and each.file is not None]
    found = {}
    for path in paths:
        try:
            with path.open("rb") as data:
                found[f"{path.parent.name}/{path.name}"] = hashlib.file_digest(data, "sha256").hexdigest()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SpecError(f"cannot be read: {reason}", file=path) from None
    return found


def varied_pattern(pattern: RequestPattern, scenario: ServingScenario) -> RequestPattern:
    """The requests at another rate, count or concurrency. Raises SpecError where they have none."""
    changed: dict[str, Any] = {}
    arrivals = pattern.arrivals
    if scenario.rate is not None:
        if arrivals is None or "rate" not in type(arrivals).model_fields:
            hint = "poisson, gamma and deterministic arrivals have one; a trace has trace.speed"
            raise SpecError("is not one of these requests", field="scenario.rate", value=scenario.rate, hint=hint)
        arrivals = arrivals.model_copy(update={"rate": scenario.rate})
    if scenario.concurrency is not None:
        if not isinstance(arrivals, Closed):
            hint = "arrivals: {kind: closed, concurrency: 64}"
            raise SpecError("is of a closed loop", field="scenario.concurrency", value=scenario.concurrency, hint=hint)
        arrivals = arrivals.model_copy(update={"concurrency": scenario.concurrency})
    if arrivals is not pattern.arrivals:
        changed["arrivals"] = arrivals
    if scenario.count is not None:
        changed["count"] = scenario.count
    return pattern.model_copy(update=changed) if changed else pattern


def block_tokens_of(pattern: RequestPattern) -> int | None:
    """Tokens of the blocks by which requests name shared text; None where they name none. Raises SpecError."""
    if pattern.trace is None:
        return pattern.block_tokens if pattern.sessions is not None or pattern.system_prompts is not None else None
    first = next(request_stream(pattern, np.random.default_rng(0), rows=1), None)
    return None if first is None or first.blocks is None else first.blocks.tokens


def loop_of(pattern: RequestPattern, start_s: float) -> ClosedLoop | None:
    """The closed loop of the simulation; a user's next request passes the front end again."""
    loop = closed_loop(pattern)
    return None if loop is None else ClosedLoop(loop.concurrency, loop.think_s + start_s, loop.total)


def chunks_of(pattern: RequestPattern, random: np.random.Generator, prefix_tokens: int) -> Iterator[Chunk]:
    """The requests as the simulation takes them; text is named where `prefix_tokens` of a block are cached.

    Raises SpecError where these are not the blocks that the requests name.
    """
    for requests in request_stream(pattern, random, rows=ROWS):
        yield _chunk(requests, prefix_tokens)


def _chunk(requests: Requests, prefix_tokens: int) -> Chunk:
    blocks = requests.blocks if prefix_tokens else None
    if blocks is not None and blocks.tokens != prefix_tokens:
        hint = f"these requests name blocks of {blocks.tokens} tokens: give that, or leave it out"
        raise SpecError("are other blocks", field="scheduler.prefix_tokens", value=prefix_tokens, hint=hint)
    unknown = np.isnan(requests.arrival_s)
    return Chunk(
        # In a closed loop arrivals follow from the answers.
        arrival_s=np.where(unknown, 0.0, requests.arrival_s),
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens,
        priority=requests.priority,
        client=requests.client,
        session=requests.session,
        block_offsets=None if blocks is None else blocks.offsets,
        block_ids=None if blocks is None else blocks.ids,
    )
