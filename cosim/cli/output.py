"""What commands share: `--set`, `--json`, tables on the screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cosim.errors import SpecError


def overrides(settings: Sequence[str]) -> dict[str, Any]:
    """`path=value` pairs as a mapping; numbers and true/false are read as such. Raises SpecError."""
    found: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip() or not text.strip():
            raise SpecError("is not path=value", field="--set", value=setting, hint="for example scenario.batch=64")
        found[path.strip()] = _value(text.strip())
    return found


def emit(content: Any, target: str | None) -> bool:  # noqa: ANN401  # any JSON
    """Writes `content` as JSON to a file, or to standard output for "-". True when the screen is taken."""
    if target is None:
        return False
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return True
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", file=target, field="--json") from None
    return False


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell; numbers to the right, first column to the left."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = []
    for line in lines:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _value(text: str) -> Any:  # noqa: ANN401  # what was typed
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
