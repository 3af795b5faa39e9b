"""Writes the accuracy table and the figure of the README from the product itself.

Usage: python benchmarks/readme.py [CASES]. Needs runs in runs/gpu-vs-asic and runs/asic-sweep.
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
    for study, figure in (("gpu-vs-asic", "frontier"), ("asic-sweep", "heat_map")):
        shutil.copy(root / f"runs/{study}/figures/{figure}.png", root / f"docs/figures/{figure}.png")


if __name__ == "__main__":
    main()
