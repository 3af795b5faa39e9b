#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment, and uses it from an empty folder.
# Usage: wheel.sh PYTHON (an interpreter that has `build`)
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --quiet --wheel --outdir "$work/dist" .
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$work"/dist/cosim-*.whl
mkdir "$work/empty"
cd "$work/empty"
"$work/venv/bin/cosim" list systems >list.txt
grep -q dgx-h100 list.txt
"$work/venv/bin/cosim" estimate decode --system dgx-h100 --workload llama-3.1-70b --json - >estimate.json
"$work/venv/bin/cosim" run gpu-vs-asic --out study
test -s study/report.html
echo "wheel: installed in a clean environment and used from an empty folder"
