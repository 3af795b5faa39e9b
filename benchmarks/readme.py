"""Writes the accuracy table and the figure of the README from the product itself.

Usage: python benchmarks/readme.py [CASES]. Needs a run in runs/gpu-vs-asic (make review).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

OPEN, CLOSE = "<!-- accuracy -->", "<!-- /accuracy -->"


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    cases = sys.argv[1] if len(sys.argv) > 1 else "../shared/cases"
    command = [sys.executable, "benchmarks/accuracy.py", cases]
    table = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.rstrip()
    readme = root / "README.md"
    head, rest = readme.read_text().split(OPEN)
    tail = rest.split(CLOSE)[1]
    readme.write_text(f"{head}{OPEN}\n```\n{table}\n```\n{CLOSE}{tail}")
    shutil.copy(root / "runs/gpu-vs-asic/figures/frontier.png", root / "docs/figures/frontier.png")


if __name__ == "__main__":
    main()
