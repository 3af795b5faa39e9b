"""Where descriptions live: the user's folders first, then the data that ships with cosim.

Search order: the current directory, each folder of COSIM_PATH, the library. In each, a kind has its
folder (`accelerators/`, `accelerators/systems/`, `workloads/`, `experiments/`); a name is a file's stem.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cosim.errors import SpecError, nearest

FOLDERS: Mapping[str, str] = {
    "accelerators": "accelerators",
    "systems": "accelerators/systems",
    "workloads": "workloads",
    "requests": "workloads/requests",
    "experiments": "experiments",
    "software": "accelerators/software",
    "serving": "accelerators/serving",
    "optimizers": "accelerators/optimizers",
    "technology": "accelerators/technology",
    "kernels": "accelerators/kernels",
    "collectives": "accelerators/collectives",
}
_ONE = {
    "accelerators": "accelerator",
    "systems": "system",
    "workloads": "workload",
    "requests": "description of requests",
    "experiments": "experiment",
    "software": "software",
    "serving": "serving software",
    "optimizers": "optimizer",
    "technology": "technology",
    "kernels": "library of kernels",
    "collectives": "library of collectives",
}


def shipped() -> Path:
    """Folder that holds the shipped data: inside the wheel, or the checkout in an editable install."""
    packaged = Path(__file__).parent / "data"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent


def roots() -> list[Path]:
    """The folders searched, first wins: current directory, COSIM_PATH, shipped data."""
    extra = [Path(part) for part in os.environ.get("COSIM_PATH", "").split(os.pathsep) if part]
    return list(dict.fromkeys([Path.cwd(), *extra, shipped()]))


def names(kind: str) -> dict[str, Path]:
    """Every description of `kind` ("accelerators", "systems", ...): name -> file, sorted by name."""
    found: dict[str, Path] = {}
    for root in roots():
        for path in _files(root, kind):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Path:
    """File of a named description, or `name` itself when it is a file. Raises SpecError."""
    looks_like_file = name.endswith((".yaml", ".yml", ".json")) or os.sep in name
    if looks_like_file:
        return Path(name)
    known = names(kind)
    if name not in known:
        raise SpecError(f"no {_ONE[kind]} has this name", value=name, hint=nearest(name, known))
    return known[name]


def kind_of(name: str) -> str:
    """The kind that holds `name`: a system, accelerator, workload or experiment. Raises SpecError."""
    everything: dict[str, str] = {}
    for kind in FOLDERS:
        for known in names(kind):
            everything.setdefault(known, kind)
    if name not in everything:
        raise SpecError("nothing in the library has this name", value=name, hint=nearest(name, everything))
    return everything[name]


def _files(root: Path, kind: str) -> list[Path]:
    folder = root / FOLDERS[kind]
    try:
        inside = sorted(folder.glob("*.yaml") if kind in ("systems", "experiments") else folder.rglob("*.yaml"))
    except OSError:
        # A folder of COSIM_PATH that may not be read holds nothing for this user.
        return []
    skip = (
        {"systems", "technology", "software", "serving", "optimizers", "kernels", "collectives"}
        if kind == "accelerators"
        else {"scenarios", "traces", "requests"}
    )
    return [path for path in inside if not skip & set(path.relative_to(folder).parts[:-1])]
