"""A row of a measured inference run while it is read: its columns, and what was filled in where it says nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cosim.validation.cases import Case as Row
from cosim.validation.row_system import CannotAnswerError

DEGREES = ("tp", "pp", "ep", "dp")


@dataclass(slots=True)
class Reader:
    """A row and what was filled in while it is read."""

    row: Row
    completed: list[str] = field(default_factory=list)

    def given(self, column: str) -> str:
        """Text of a column, blank where it is absent."""
        return self.row.values.get(column, "").strip()

    def number(self, column: str) -> float | None:
        """A column as a number of zero or more; None where it is blank or zero. Raises CannotAnswerError."""
        text = self.given(column)
        if not text or text in ("0", "inf"):
            return None
        value = self.row.number(column)
        if value is None or value < 0.0:
            raise CannotAnswerError(f"{column} {text} is not a number of zero or more")
        return value

    def pool(self, letter: str) -> Reader:
        """The row as one pool of a disaggregated deployment has it: `P4/D8` is 4 for P and 8 for D."""
        values = dict(self.row.values)
        for column in DEGREES:
            parts = {part[:1]: part[1:] for part in self.given(column).split("/") if part}
            if letter in parts:
                values[column] = parts[letter]
        return Reader(replace(self.row, values=values), self.completed)

    def without(self, column: str) -> Reader:
        """The row as if the column were blank."""
        return Reader(replace(self.row, values={**self.row.values, column: ""}), self.completed)

    @property
    def is_apart(self) -> bool:
        """Whether prefill and decode have plans of their own."""
        return any("/" in self.given(column) for column in DEGREES)

    def degree(self, column: str) -> int | None:
        """A degree of parallelism. Raises CannotAnswerError."""
        value = self.number(column)
        if value is not None and value != round(value):
            raise CannotAnswerError(f"{column} {self.given(column)} is not a whole number")
        return None if value is None else int(value)

    def complete(self, name: str, value: object) -> None:
        """Notes what was filled in."""
        self.completed.append(f"{name} {value}")
