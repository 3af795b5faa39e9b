"""One line of progress with the time left, on a terminal or in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self, TextIO

LOG_EVERY_S = 5.0


class Progress:
    """Shows `done` of `total` on a stream: rewritten on a terminal, now and then in a log."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.live = stream, stream.isatty()
        self.started = time.monotonic()
        self.logged = self.started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def show(self, done: int, total: int, what: str) -> None:
        """One step: `done` of `total` units (total 0: no count), and what is being done."""
        now = time.monotonic()
        text = f"{what}" if total == 0 else f"[{done}/{total}] {what}{self._left(done, total, now)}"
        if self.live:
            self.stream.write(f"\r\x1b[K{text[:100]}")
        elif now - self.logged >= LOG_EVERY_S or done in (0, total):
            self.stream.write(text + "\n")
            self.logged = now
        self.stream.flush()

    def _left(self, done: int, total: int, now: float) -> str:
        if done in {0, total}:
            return ""
        return f", {(now - self.started) / done * (total - done):.0f} s left"
