"""The description of requests, `kind: requests`: when they come, how long they are, what they share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cosim.datum import Seconds
from cosim.errors import SpecError
from cosim.schema import Frozen
from cosim.units import parse_quantity
from cosim.workload.requests.lengths import Length, Tokens

MAX_ROWS = 1_000_000_000


def _rate(raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
    return parse_quantity(raw, "Hz")


def _pause(raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
    return parse_quantity(raw, "s")


Rate = Annotated[float, BeforeValidator(_rate), Field(gt=0)]
"""Requests per second, which may be written as 5 Hz: a choice, so it has no source."""
RateOrNone = Annotated[float, BeforeValidator(_rate), Field(ge=0)]
"""The same where it may be zero for a while."""
Pause = Annotated[float, BeforeValidator(_pause), Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Variation = Annotated[float, Field(ge=0, le=1000)]
"""Coefficient of variation: deviation over mean."""


class Poisson(Frozen):
    """Exponential gaps: every moment is alike."""

    kind: Literal["poisson"]
    rate: Rate


class Gamma(Frozen):
    """Gaps of a gamma distribution: `cv` above 1 bursts, below 1 keeps step."""

    kind: Literal["gamma"]
    rate: Rate
    cv: Variation


class Deterministic(Frozen):
    """One request every 1 / rate seconds."""

    kind: Literal["deterministic"]
    rate: Rate


class Bursts(Frozen):
    """Two rates in turn, each for exponential times (Markov modulated)."""

    kind: Literal["bursts"]
    on: Rate
    off: RateOrNone
    mean_on: Seconds
    """Mean time of a burst."""
    mean_off: Seconds
    cv: Variation = 1.0


class Diurnal(Frozen):
    """A rate that repeats: equal steps of a period."""

    kind: Literal["diurnal"]
    period: Seconds
    rates: Annotated[tuple[RateOrNone, ...], Field(min_length=1, max_length=100_000)]
    cv: Variation = 1.0

    @model_validator(mode="after")
    def _comes(self) -> Diurnal:
        _some_rate(self.rates)
        return self


class Piecewise(Frozen):
    """Rates one after the other, each for its time; after the last nothing comes."""

    kind: Literal["piecewise"]
    durations: Annotated[tuple[Seconds, ...], Field(min_length=1, max_length=100_000)]
    rates: tuple[RateOrNone, ...]
    cv: Variation = 1.0

    @model_validator(mode="after")
    def _comes(self) -> Piecewise:
        if len(self.durations) != len(self.rates):
            pair = f"{len(self.durations)} durations, {len(self.rates)} rates"
            raise SpecError("has no rate for every duration", field="rates", value=pair)
        _some_rate(self.rates)
        return self


class Closed(Frozen):
    """So many users, each of whom asks again when it has its answer: arrivals follow from the service."""

    kind: Literal["closed"]
    concurrency: Annotated[int, Field(ge=1)]
    think: Pause = 0.0


Arrivals = Annotated[
    Poisson | Gamma | Deterministic | Bursts | Diurnal | Piecewise | Closed,
    Field(discriminator="kind"),
]


class Sessions(Frozen):
    """Conversations: an arrival begins one; every later turn sends the whole text before it again."""

    turns: Length
    """Turns of a conversation (a count, drawn like token counts)."""
    think: Pause
    """Mean time from one turn's arrival to the next one's."""
    think_cv: Variation = 1.0
    prompt: Length | None = None
    """New tokens of a later turn; as `prompt` of the file where it is left out."""
    max_context: Tokens | None = None
    """A conversation ends before the turn whose prompt and output exceed it. The first turn always comes."""


class SystemPrompts(Frozen):
    """Text at the start of many prompts, the same for all that use it."""

    share: Share
    """Of conversations, or of requests without turns, that begin with one."""
    tokens: Tokens
    """Length of one; it comes before the tokens of `prompt`."""
    prompts: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Different ones, each as likely."""


class Client(Frozen):
    """A share of the conversations, with a priority: the smallest goes first."""

    share: Share
    priority: int = 0


class Joint(Frozen):
    """Pairs of prompt and output, each as likely: rows here, or of a Parquet file that `cosim import` wrote."""

    rows: Annotated[tuple[tuple[Tokens, Tokens], ...], Field(min_length=1)] | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Joint:
        if (self.rows is None) == (self.file is None):
            raise SpecError("has rows and a file, or neither", hint="give one of rows and file")
        return self


class Trace(Frozen):
    """Requests one by one, of a Parquet file that `cosim import requests` wrote."""

    file: str
    """Beside the description, or a whole path."""
    speed: Annotated[float, Field(gt=0)] = 1.0
    """Arrivals come this many times as fast."""


class RequestPattern(Frozen):
    """Requests of serving: a trace, or arrivals with lengths; `count` and `duration` end the stream."""

    kind: Literal["requests"]
    name: str
    title: str
    source: str
    """Where the numbers come from."""
    count: Annotated[int, Field(ge=1, le=MAX_ROWS)] | None = None
    """Requests in all."""
    duration: Seconds | None = None
    """No request comes from then on."""
    trace: Trace | None = None
    arrivals: Arrivals | None = None
    prompt: Length | None = None
    output: Length | None = None
    rank_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Spearman's, of prompt and output."""
    joint: Joint | None = None
    """In place of `prompt` and `output`."""
    sessions: Sessions | None = None
    system_prompts: SystemPrompts | None = None
    clients: Annotated[tuple[Client, ...], Field(min_length=1)] = (Client(share=1.0),)
    block_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens of a block by which shared text is known; a cache can work with any multiple."""

    @model_validator(mode="after")
    def _whole(self) -> RequestPattern:
        if self.trace is not None:
            _only_trace(self)
            return self
        _drawn(self)
        shares = sum(client.share for client in self.clients)
        if abs(shares - 1.0) > 1e-6:
            raise SpecError("have shares that are not 1 in all", field="clients", value=shares)
        return self


_DRAWN = ("arrivals", "prompt", "output", "rank_correlation", "joint", "sessions", "system_prompts", "clients")


def _only_trace(pattern: RequestPattern) -> None:
    """Refuses what is drawn beside a trace. Raises SpecError."""
    for name in (*_DRAWN, "block_tokens"):
        if name in pattern.model_fields_set:
            raise SpecError("is drawn, and a trace says it already", field=name, hint=f"leave out trace or {name}")


def _drawn(pattern: RequestPattern) -> None:
    """Refuses a pattern that leaves open what is to be drawn. Raises SpecError."""
    if pattern.arrivals is None:
        raise SpecError("is missing", field="arrivals", hint="say when requests come, or name a trace")
    pair = (pattern.prompt, pattern.output)
    if pattern.joint is None and None in pair:
        field = "prompt" if pattern.prompt is None else "output"
        raise SpecError("is missing", field=field, hint="give prompt and output, or joint")
    if pattern.joint is not None and (pair != (None, None) or pattern.rank_correlation):
        raise SpecError("is beside prompt, output or rank_correlation", field="joint", hint="give one or the other")
    closed, ends = pattern.arrivals.kind == "closed", pattern.arrivals.kind == "piecewise"
    if closed and pattern.sessions is not None:
        raise SpecError("need arrivals of their own", field="sessions", hint="a closed loop has a request a turn")
    if closed and (pattern.duration is not None or pattern.count is None):
        raise SpecError("ends a closed loop, and duration does not", field="count", hint="give count alone")
    if not ends and pattern.count is None and pattern.duration is None:
        raise SpecError("is missing", field="count", hint="give count or duration, or the stream never ends")


def _some_rate(rates: tuple[float, ...]) -> None:
    """Refuses rates of which none is above zero. Raises SpecError."""
    if not any(rates):
        raise SpecError("are all zero: nothing ever comes", field="rates")
