"""What is asked of a long run, what of it cannot be, and the interval that follows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cosim.errors import SpecError, nearest
from cosim.records import Array, array
from cosim.timing.checkpoint import best_interval, daly, young
from cosim.units import parse_quantity

RULES: Mapping[str, Callable[[Array, Array], Array]] = {"best": best_interval, "daly": daly, "young": young}
SAVES = ("blocking", "async")
MOST_SEEDS = 10_000
MOST_SPARES = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a run beside its step: how long it is, how it saves, what it has in hand.

    One of `tokens`, `steps`. `interval` is a rule (best, daly, young) or a time. `spares` None takes the share of the
    data. `stragglers` are factors by chip; `slow_spread` that of the normal law of all chips.
    """

    tokens: float | None = None
    steps: float | None = None
    interval: str | float = "best"
    save: str = "blocking"
    spares: int | None = None
    elastic: bool = False
    slow_spread: float = 0.0
    stragglers: Mapping[int, float] = field(default_factory=dict)
    seeds: int = 20
    seed: int = 0
    spans: bool = False
    """Whether the first run keeps what happened when, for a timeline."""


def check_asked(asked: Asked) -> None:
    """Raises SpecError for what cannot be asked."""
    if (asked.tokens is None) == (asked.steps is None):
        raise SpecError("give one of the two", field="tokens, steps", hint="for example --tokens 1e12")
    for holds, problem, name, value, hint in itertools.chain(_length(asked), _counts(asked), _slow(asked)):
        if not holds:
            raise SpecError(problem, field=name, value=value, hint=hint)


_Check = tuple[bool, str, str, object, str | None]
"""(whether it holds, the problem if not, field, value, hint)"""


def _length(asked: Asked) -> Iterator[_Check]:
    for name, value in (("tokens", asked.tokens), ("steps", asked.steps)):
        if value is not None:
            yield math.isfinite(value) and value > 0.0, "must be more than 0", name, value, None
    if asked.steps is not None:
        yield asked.steps == round(asked.steps), "must be a whole number", "steps", asked.steps, None


def _counts(asked: Asked) -> Iterator[_Check]:
    yield asked.save in SAVES, "is no way to save", "checkpoint", asked.save, nearest(asked.save, SAVES)
    spares = 0 if asked.spares is None else asked.spares
    yield 0 <= spares <= MOST_SPARES, "is out of range", "spares", spares, f"0 to {MOST_SPARES}"
    yield 1 <= asked.seeds <= MOST_SEEDS, "is out of range", "seeds", asked.seeds, f"1 to {MOST_SEEDS}"
    yield asked.seed >= 0, "must be at least 0", "seed", asked.seed, None


def _slow(asked: Asked) -> Iterator[_Check]:
    yield 0.0 <= asked.slow_spread <= 1.0, "is out of range", "slow-spread", asked.slow_spread, "0 to 1"
    hint = "how many times as long its steps take, at least 1"
    for chip, factor in asked.stragglers.items():
        yield math.isfinite(factor) and factor >= 1.0, "is no factor", "straggler", f"{chip}={factor}", hint


def interval_of(asked: Asked, save_s: float, lag_s: float, mean: float, step_s: float, work_s: float) -> float:
    """Work between checkpoints [s], in whole steps, one at least and the whole run at most. Raises SpecError.

    `mean` time between failures of the job [s]; a checkpoint stops it for `save_s` and is written in `lag_s` behind it.
    """
    if asked.interval in RULES:
        rule = RULES[str(asked.interval)]
        found = float(rule(array(save_s), array(mean))) if math.isfinite(mean) else work_s
    else:
        if isinstance(asked.interval, str) and asked.interval.isalpha():
            raise SpecError("is no rule", field="interval", value=asked.interval, hint=nearest(asked.interval, RULES))
        found = _quantity(asked.interval, "s", "interval")
        if not found > 0.0:
            raise SpecError("must be more than 0", field="interval", value=asked.interval)
        if found < lag_s:
            hint = f"a checkpoint is written for {lag_s:.4g} s behind the job, one at a time"
            raise SpecError("is too short", field="interval", value=asked.interval, hint=hint)
    # One checkpoint is written at a time.
    steps = max(round(found / step_s), math.ceil(lag_s / step_s), 1)
    return min(steps * step_s, work_s)


def _quantity(text: str | float, unit: str, field: str) -> float:
    try:
        found = parse_quantity(text, unit)
    except SpecError as error:
        raise SpecError(error.problem, field=field, value=error.value, hint=error.hint) from None
    if not math.isfinite(found):
        raise SpecError("is not a finite number", field=field, value=text)
    return found
