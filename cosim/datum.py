"""A datum: value, unit, kind, source. Every number of a description is one.

In a file it is written `{value: 3.35, unit: TB/s, kind: datasheet, source: whitepaper}`, where
`source` may be a key of the file's `sources:` block. A bare "3.35 TB/s" is accepted for the user's own
quick descriptions and is marked as given without a source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from cosim.errors import SpecError
from cosim.schema import Frozen
from cosim.units import format_si, is_bare_number, parse_quantity, to_si

Kind = Literal["datasheet", "measured", "derived", "estimated", "given"]
UNSOURCED = "given without a source"


class Datum(Frozen):
    """One sourced number. `low` and `high` give its range in the same unit where it is uncertain."""

    value: float
    unit: str = ""
    kind: Kind
    source: str
    note: str | None = None
    low: float | None = None
    high: float | None = None
    si_unit: str = ""
    """Unit of `si`, set by the field that holds the datum."""

    @property
    def si(self) -> float:
        """The value in SI units."""
        return to_si(self.value, self.unit, self.si_unit)

    @property
    def si_range(self) -> tuple[float, float]:
        """The range in SI units; the value itself twice where no range is given."""
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        return to_si(low, self.unit, self.si_unit), to_si(high, self.unit, self.si_unit)

    @property
    def text(self) -> str:
        """The value as people read it, with its range."""
        if self.low is None and self.high is None:
            return self._shown(self.value)
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        return f"{self._shown(self.value)} ({self._shown(low)} to {self._shown(high)})"

    def _shown(self, value: float) -> str:
        """As the file writes it: Gb/s stay Gb/s."""
        if self.unit in ("", self.si_unit):
            return format_si(to_si(value, self.unit, self.si_unit), self.si_unit)
        return f"{value:,.6g} {self.unit}"


@dataclass(frozen=True)
class Quantity:
    """What a field's datum must be: in `unit`, within [low, high], `open_low` excluding `low`, `whole` or not.

    Used as `Annotated[Datum, Quantity("B/s")]`; pydantic asks it how to validate and describe the field.
    """

    unit: str
    low: float = 0.0
    high: float = math.inf
    open_low: bool = True
    whole: bool = False

    def coerce(self, raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
        """The raw field as a mapping for Datum; strings and bare numbers become data without a source."""
        if isinstance(raw, Datum):
            return raw if raw.si_unit == self.unit else raw.model_copy(update={"si_unit": self.unit})
        if isinstance(raw, dict):
            return {**raw, **self._number(raw), "si_unit": self.unit}
        if isinstance(raw, (str, int, float)):
            value = parse_quantity(raw, self.unit)
            return {"value": value, "unit": self.unit, "kind": "given", "source": UNSOURCED, "si_unit": self.unit}
        raise SpecError("is not a number with a unit", value=raw, hint=f"write for example '1 {self.unit}'".rstrip())

    def _number(self, raw: dict[str, Any]) -> dict[str, Any]:
        """`value` and `unit` of a mapping whose value is text: "3.35" keeps the unit, "3.35 TB/s" has its own."""
        value = raw.get("value")
        if isinstance(value, bool):
            raise SpecError("is not a number", value=value)
        if not isinstance(value, str):
            return {}
        beside = [name for name in ("unit", "low", "high") if raw.get(name) not in (None, "")]
        if is_bare_number(value):
            return {"value": float(value)}
        if beside:
            raise SpecError(
                f"has a unit of its own beside '{beside[0]}'", value=value, hint="write value: 3.35, unit: TB/s"
            )
        return {"value": parse_quantity(value, self.unit), "unit": self.unit}

    def check(self, datum: Datum) -> Datum:
        """The datum, if it and its range are finite, in range and in the right dimension. Raises SpecError."""
        low, high = datum.si_range
        if not low <= datum.si <= high:
            raise SpecError("is outside its own range", value=datum.text, hint="low <= value <= high")
        for value in (datum.si, low, high):
            if not math.isfinite(value):
                raise SpecError("is not a finite number", value=value)
            if value < self.low or (self.open_low and value == self.low) or value > self.high:
                bound = f"more than {self.low:g}" if self.open_low else f"at least {self.low:g}"
                top = "" if math.isinf(self.high) else f" and at most {self.high:g}"
                raise SpecError("is out of range", value=datum.text, hint=f"it must be {bound}{top}")
            if self.whole and value != round(value):
                raise SpecError("must be a whole number", value=datum.value)
        return datum

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:  # noqa: ANN401
        """pydantic's hook: coerce, build the Datum, check it."""
        inner = core_schema.no_info_before_validator_function(self.coerce, handler(source))
        return core_schema.no_info_after_validator_function(self.check, inner)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """pydantic's hook: a datum may also be written as text or a bare number."""
        described = f"a datum in {self.unit}" if self.unit else "a datum without unit"
        return {"description": described, "anyOf": [handler(schema), {"type": "string"}, {"type": "number"}]}


def _seconds(raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
    return None if raw is None else parse_quantity(raw, "s")


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""A plain time [s] that may be written with its unit: a limit, not a fact, so it has no source."""


def _bytes(raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
    return None if raw is None else parse_quantity(raw, "B")


Bytes = Annotated[float, BeforeValidator(_bytes), Field(gt=0)]
"""A plain size [B] that may be written with its unit: what is asked, not a fact."""

Count = Annotated[Datum, Quantity("", low=1.0, open_low=False, whole=True)]
Ratio = Annotated[Datum, Quantity("", high=1.0)]
Factor = Annotated[Datum, Quantity("")]
Frequency = Annotated[Datum, Quantity("Hz")]
FlopPerCycle = Annotated[Datum, Quantity("FLOP/cycle")]
OpPerCycle = Annotated[Datum, Quantity("op/cycle")]
BytePerCycle = Annotated[Datum, Quantity("B/cycle")]
FlopRate = Annotated[Datum, Quantity("FLOP/s")]
OpRate = Annotated[Datum, Quantity("op/s")]
Bandwidth = Annotated[Datum, Quantity("B/s")]
Capacity = Annotated[Datum, Quantity("B")]
Time = Annotated[Datum, Quantity("s", open_low=False)]
Power = Annotated[Datum, Quantity("W")]
EnergyPerFlop = Annotated[Datum, Quantity("J/FLOP")]
EnergyPerByte = Annotated[Datum, Quantity("J/B")]
Area = Annotated[Datum, Quantity("mm2")]
AreaPerByte = Annotated[Datum, Quantity("mm2/B")]
AreaPerBandwidth = Annotated[Datum, Quantity("mm2*s/B", open_low=False)]
BandwidthPerArea = Annotated[Datum, Quantity("B/s/mm2")]
BandwidthPerLength = Annotated[Datum, Quantity("B/s/mm")]
Length = Annotated[Datum, Quantity("mm")]
PowerPerArea = Annotated[Datum, Quantity("W/mm2")]
Money = Annotated[Datum, Quantity("USD", open_low=False)]
MoneyPerEnergy = Annotated[Datum, Quantity("USD/J", open_low=False)]
