"""The errors a user can meet, one class per cause.

    CosimError
      SpecError         an input is wrong: says file, line, field, value and what would be right
      InfeasibleError   the inputs are right but the point breaks a limit: says which and by how much
      SimulationError   the event engine stopped without reaching its goal: a defect of a schedule

The command line turns the first two into one message and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any


class CosimError(Exception):
    """Base of everything cosim raises on purpose."""


class SpecError(CosimError, ValueError):
    """An input that cannot be used.

    Arguments: `problem` what is wrong; `file` and `line` where; `field` the dotted path;
    `value` what was found; `hint` what would be right. All but `problem` may be unknown (None).
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        value: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.line = problem, file, line
        self.field, self.value, self.hint = field, value, hint
        super().__init__(self._message())

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole through a process border."""
        fields = {name: getattr(self, name) for name in ("file", "line", "field", "value", "hint")}
        return partial(SpecError, **fields), (self.problem,)

    def _message(self) -> str:
        where = "" if self.file is None else f"{self.file}" + (f":{self.line}" if self.line else "") + ": "
        what = "" if self.field is None else f"{self.field}: "
        shown = "" if self.value is None else f" (got {_short(self.value)})"
        advice = "" if self.hint is None else f"; {self.hint}"
        return f"{where}{what}{self.problem}{shown}{advice}"

    def at(self, *, file: str | Path | None = None, line: int | None = None) -> SpecError:
        """The same error with the place filled in where it was unknown."""
        return SpecError(
            self.problem,
            file=self.file if self.file is not None else file,
            line=self.line if self.file is not None else line,
            field=self.field,
            value=self.value,
            hint=self.hint,
        )


class InfeasibleError(CosimError):
    """A point that breaks a limit. `limit` is its code, `shortfall` says by how much, `hint` the way out."""

    def __init__(self, limit: str, shortfall: str, hint: str | None = None) -> None:
        self.limit, self.shortfall, self.hint = limit, shortfall, hint
        super().__init__(f"{limit}: {shortfall}" + ("" if hint is None else f"; {hint}"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole through a process border."""
        return InfeasibleError, (self.limit, self.shortfall, self.hint)


class SimulationError(CosimError):
    """The event engine ran out of events before its goal. `clock_s` is its time, `process` who waited."""

    def __init__(self, problem: str, *, clock_s: float, process: str) -> None:
        self.clock_s, self.process = clock_s, process
        self.problem = problem
        super().__init__(f"{problem} (clock {clock_s:.6g} s, waiting: {process})")

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole through a process border."""
        return partial(SimulationError, clock_s=self.clock_s, process=self.process), (self.problem,)


def nearest(name: str, known: Iterable[str], root: str = "") -> str:
    """Advice for an unknown name: the three nearest known ones, or all of them when few; `root` goes before each.

    Names that start with what was typed come first, the shortest before the others; capitals are no matter.
    """
    names = sorted(known)
    close = [*_completions(name, names), *difflib.get_close_matches(name, names, n=3, cutoff=0.5)]
    if close:
        return "nearest: " + ", ".join(root + each for each in list(dict.fromkeys(close))[:3])
    if not names:
        return "none is known"
    shown = ", ".join(root + each for each in names[:12])
    return f"known: {shown}" + (", ..." if len(names) > 12 else "")


def _completions(typed: str, names: list[str]) -> list[str]:
    """Names that start with what was typed, the shortest first; none for a letter, which too many start with."""
    start = typed.casefold()
    if len(start) < 2:
        return []
    return sorted((each for each in names if each.casefold().startswith(start)), key=lambda each: (len(each), each))


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
