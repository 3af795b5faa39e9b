"""What a sequence takes of the cache: blocks that come with its tokens, fewer past a window, and a state of fixed size.

    blocks = state + near x min(b, w) + far x max(b - w, 0)     b = ceil(tokens / block), w = ceil(window / block)

Where every layer keeps every token all is 1 a block. Layers with a window keep nothing more past it, so that far lies
below near; recurrent layers and what an encoder leaves behind keep a state from the first token to the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cosim.errors import SpecError


@dataclass(frozen=True, slots=True)
class Layout:
    """Blocks of the cache for each block of tokens: `near` inside of `window` tokens, `far` past it; `state` once.

    Raises SpecError for numbers below 0, and for `far` above `near`.
    """

    state: int = 0
    near: int = 1
    far: int = 1
    window: int = 0

    def __post_init__(self) -> None:
        for name in ("state", "near", "far", "window"):
            if getattr(self, name) < 0:
                raise SpecError("is less than 0", field=f"layout.{name}", value=getattr(self, name))
        if self.far > self.near:
            raise SpecError("is more than inside of the window", field="layout.far", value=self.far)
        if not self.state + self.near:
            raise SpecError("takes nothing", field="layout", hint="give state or near")

    @property
    def unit(self) -> int:
        """Blocks of the cache for a block of tokens of a long sequence, or of a short one where those take none."""
        return self.far or self.near or 1

    def whole(self, block: int) -> int:
        """Tokens of blocks that begin inside of the window."""
        return -(-self.window // block) * block

    def blocks(self, tokens: int, block: int) -> int:
        """Blocks of the cache for so many tokens, `block` of them in each."""
        count = -(-tokens // block)
        inside = min(count, -(-self.window // block))
        return self.state + self.near * inside + self.far * (count - inside)

    def tokens(self, blocks: int, block: int) -> float:
        """Most tokens that so many blocks hold; infinite past a window that all layers have."""
        left, inside = blocks - self.state, -(-self.window // block)
        if left < self.near * inside:
            return left // self.near * block
        return (inside + (left - self.near * inside) // self.far) * block if self.far else math.inf


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of a sequence in the cache: `state` once, `near` of a token inside of `window` tokens, `far` past it.

    Where there is no window every token is `far`.
    """

    state: float
    near: float
    far: float
    window: int = 0

    def bytes(self, tokens: float) -> float:
        """Of so many tokens [B]."""
        inside = min(tokens, self.window)
        return self.state + self.near * inside + self.far * (tokens - inside)

    def over(self, parts: float) -> Held:
        """The share of one of so many that move side by side."""
        return Held(self.state / parts, self.near / parts, self.far / parts, self.window)


USUAL = Layout()
"""Every layer keeps every token."""
