"""`cosim list`, `cosim show`, `cosim schema`: what is in the library, whole and sourced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cosim.cli.output import emit, overrides, table

JsonOption = Annotated[str | None, typer.Option("--json", help="Write as JSON to this file, - for the screen.")]


def list_items(
    kind: Annotated[
        str | None, typer.Argument(help="accelerators, systems, workloads, requests, experiments or software.")
    ] = None,
    json_to: JsonOption = None,
) -> None:
    """What is in the library, with the main numbers."""
    from cosim import library
    from cosim.errors import SpecError, nearest
    from cosim.explore.catalogue import listing

    if kind is not None and kind not in library.FOLDERS:
        raise SpecError("unknown kind of item", value=kind, hint=nearest(kind, library.FOLDERS))
    items = {k: listing(k) for k in ([kind] if kind else library.FOLDERS)}
    flat = [{"kind": k, **item} for k, found in items.items() for item in found]
    if emit(flat, json_to):
        return
    for name, found in items.items():
        print(f"{name} ({len(found)})")
        width = max((len(item["name"]) for item in found), default=0)
        for item in found:
            facts = ", ".join(f"{key} {value}" for key, value in item.items() if key not in ("name", "title"))
            print(f"  {item['name']:<{width}}  {item['title']}" + (f"  [{facts}]" if facts else ""))


def show(
    name: Annotated[str, typer.Argument(help="A system, accelerator, workload or experiment, or its file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Of a system: path=value, such as system.nodes=16.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Of a system: draw its network and its all-reduces (.svg or .png).")
    ] = None,
    json_to: JsonOption = None,
) -> None:
    """One item whole: every number with unit, kind and source, and what derives from it."""
    from cosim.cli.network_text import network_text
    from cosim.explore.catalogue import details
    from cosim.overrides import split_overrides

    changes = split_overrides(overrides(settings or []), ("system",))["system"]
    content = details(name, changes)
    if figure is not None:
        _draw(name, content["kind"], changes, figure)
    if emit(content, json_to):
        return
    print(f"{content['kind']} {content['name']}: {content['title']}")
    for group in ("data", "derived"):
        rows: list[dict[str, Any]] = content[group]
        if rows:
            print(f"\n{group}")
            for row in rows:
                note = f"; {row['note']}" if row["note"] else ""
                print(f"  {row['path']:<44} {row['value']:<24} {row['kind']:<10} {row['source']}{note}")
    if content["checks"]:
        print("\nchecks of published totals")
        head = ["check", "published", "derived", "deviation", "verdict"]
        print(table(head, [[str(row[key]) for key in head] for row in content["checks"]]))
    if "tiers" in content:
        print("\n" + network_text(content))


def _draw(name: str, kind: str, changes: dict[str, Any], path: Path) -> None:
    """The network of a system as a figure. Raises SpecError for what is no system, and for a file that cannot be."""
    from cosim.errors import SpecError
    from cosim.explore.catalogue import varied_system
    from cosim.explore.network import network_picture
    from cosim.report.style import save_one
    from cosim.report.topology import topology_figure

    if kind != "system":
        raise SpecError(f"is of kind '{kind}': only a system is drawn", field="--figure", value=name)
    save_one(topology_figure(network_picture(varied_system(name, changes))), path)


def schema(
    kind: Annotated[
        str, typer.Argument(help="chip, system, workload, plan, scenario or an experiment kind (compare).")
    ],
    json_to: JsonOption = None,
) -> None:
    """JSON Schema of a file kind, for editors."""
    from cosim.explore.catalogue import schema_of

    content = schema_of(kind)
    if not emit(content, json_to):
        print(json.dumps(content, indent=1))
