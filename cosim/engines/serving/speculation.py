"""Steps that an answer takes with drafts: by chance, or by the mean.

A step gives 1 token and those drafts that hold from the first on: tokens = 1 + j with chance a1 ... aj (1 - a(j+1)).
The steps of an answer are drawn to the last token, so their number is exact; between its first and last step a
sequence is taken to grow evenly, so that its batch needs no look at each sequence.
"""

from __future__ import annotations

import math

import numpy as np

from cosim.engines.serving.settings import Speculation
from cosim.errors import SpecError

DRAWN = 1 << 14
"""Steps drawn at a time."""


class Drafts:
    """Draws steps of answers. Raises SpecError for chance without a generator."""

    def __init__(self, settings: Speculation, random: np.random.Generator | None) -> None:
        if random is None and not settings.expected:
            raise SpecError("needs a generator", field="speculation", hint="pass one, or say expected")
        self.settings, self.random = settings, random
        self.mean = settings.mean_tokens
        self._chances = np.cumprod(settings.acceptance)
        self._tokens: list[int] = []

    def steps(self, tokens: int) -> int:
        """Steps that give so many tokens."""
        if self.settings.expected:
            return max(math.ceil(tokens / self.mean - 1e-9), 1)
        steps = 0
        while tokens > 0:
            if not self._tokens:
                self._tokens = self._drawn()
            tokens -= self._tokens.pop()
            steps += 1
        return steps

    def _drawn(self) -> list[int]:
        """Tokens of many steps: with u uniform, a draft holds with all before it where u is below the product."""
        if self.random is None:
            raise SpecError("needs a generator", field="speculation")
        drawn = self.random.random(DRAWN)
        # The products fall, so how many of them lie above u is how many drafts hold.
        held: list[int] = (1 + np.searchsorted(-self._chances, -drawn, side="left")).tolist()
        return held
