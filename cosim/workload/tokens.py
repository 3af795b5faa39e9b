"""What one step works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cosim.records import Array


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one step works on, per micro-batch of one replica.

    `sequences`; `query` new tokens of each; `context` keys that the last query sees.
    """

    phase: Literal["prefill", "decode", "train"]
    sequences: Array
    query: Array
    context: Array

    @property
    def rows(self) -> Array:
        """Rows of the activations."""
        return self.sequences * self.query
