"""`cosim validate`: prediction against measurement."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from cosim.cli.library import JsonOption
from cosim.cli.output import emit, table
from cosim.errors import SpecError

FOLDERS = {"training-accuracy": "measured steps", "inference-accuracy": "measured rows"}
"""Suites that read a folder, and what is counted in them."""
SHOWN = 8
"""Completions that are printed."""


def validate_command(
    suite: Annotated[
        str | None,
        typer.Option(
            help="A suite: systolic, training, collective, inference, tpu, training-accuracy and inference-accuracy "
            "(runs of the folder --cases), or silicon, collectives (extra cosim[silicon])."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="matmul, attention, collective, training, inference, serving (a request log with its header) or "
            "systolic; limits the suite silicon."
        ),
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="CSV of measured cases, or the folder of the suite.")] = None,
    group: Annotated[str | None, typer.Option(help="Column to group the errors by.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every shape of the suite silicon, not a sample.")] = False,
    left_out: Annotated[
        bool,
        typer.Option("--left-out", help="Each fitted chip as other generations, or its specification, predict it."),
    ] = False,
    page: Annotated[Path | None, typer.Option(help="Writes a page of the accuracy in Markdown.")] = None,
    json_to: JsonOption = None,
) -> None:
    """Prediction against measurement, with the rows that could not be answered and why."""
    from cosim.validation.run import validate

    found = validate(kind, cases, suite=suite, group=group, every=every, left_out=left_out)
    if page is not None:
        _write_page(found, page)
    if emit(found, json_to):
        return
    if found["kind"] == "silicon":
        _print_silicon(found)
        return
    if found["kind"] in FOLDERS:
        _print_folder(found)
        return
    print(f"{found['kind']}: {found['evaluated']} of {found['cases']} cases answered")
    head = ["group", "rows", "median", "mean", "p90", "bias"]
    print(table(head, [_row("all", found), *(_row(name, row) for name, row in found["groups"].items())]))
    if found["macro_median_abs_error"] is not None:
        print(f"macro median {found['macro_median_abs_error']:.1%}")
    if found["kind"] == "serving":
        _print_serving(found)
    _print_completed(found["rows"])
    if found.get("left_out"):
        from cosim.report.accuracy import generations

        section = generations(found["left_out"])
        print(f"\n{section.title}\n{section.note}\n{table(section.head, section.rows)}")
    for reason, count in Counter(skip["reason"] for skip in found["skipped"]).most_common():
        print(f"skipped {count}: {reason}")


def _print_completed(rows: list[dict[str, Any]]) -> None:
    """How many rows left something open, and what was filled in most often."""
    filled = [row["completed"] for row in rows if row.get("completed")]
    if not filled:
        return
    print(f"completed {len(filled):,} of {len(rows):,} rows answered; --json has what of each")
    counts = Counter(text for texts in filled for text in texts)
    for text, count in counts.most_common(SHOWN):
        print(f"completed {count:,}: {text}")
    if len(counts) > SHOWN:
        print(f"completed otherwise: {len(counts) - SHOWN:,} more")


def _print_serving(found: dict[str, Any]) -> None:
    """Errors of the requests together, and what the scheduler did."""
    names = ("mean", "p50", "p90", "p99")
    rows = [
        [group, *("-" if (error := row[f"error_of_{name}"]) is None else f"{error:+.1%}" for name in names)]
        for group, row in found["groups"].items()
    ]
    print("\n" + table(["error of", *names], rows))
    about = found["about"]
    blocks = f"{about['kv_blocks_used']:,} KV blocks (memory model: {about['kv_blocks_modelled']:,})"
    print(f"{about['log']}: {blocks}, {about['preemptions']:,} preempted, {about['steps']:,} steps")
    if about["requests_left_out"]:
        whole = about["requests"] + about["requests_left_out"]
        print(f"left out of the replay: {about['requests_left_out']:,} of {whole:,} requests, for the reasons below")
    for text in about["completed"]:
        print(f"completed: {text}")
    for text in about["not_modelled"]:
        print(f"not modelled: {text}")


def _print_silicon(found: dict[str, Any]) -> None:
    from cosim.report.accuracy import sections

    print(f"silicon: {found['evaluated']:,} of {found['shapes']:,} shapes asked")
    for section in sections(found):
        print("\n".join(["", section.title, *([section.note] if section.note else [])]))
        print(table(section.head, section.rows))
    if found["macro_median_abs_error"] is not None:
        print(f"\nmacro median {found['macro_median_abs_error']:.1%}")


def _print_folder(found: dict[str, Any]) -> None:
    from cosim.report import inference_accuracy, training_accuracy

    training = found["kind"] == "training-accuracy"
    about = training_accuracy.ABOUT if training else inference_accuracy.ABOUT
    sections = training_accuracy.training_sections if training else inference_accuracy.inference_sections
    missing = f"; not at hand: {', '.join(found['missing'])}" if found["missing"] else ""
    print(f"{found['evaluated']:,} of {found['cases']:,} {FOLDERS[found['kind']]} answered{missing}\n{about}")
    for section in sections(found):
        print("\n".join(["", section.title, *([section.note] if section.note else [])]))
        print(table(section.head, section.rows))


def _write_page(found: dict[str, Any], page: Path) -> None:
    from cosim.report.accuracy import accuracy_page
    from cosim.report.inference_accuracy import inference_page
    from cosim.report.training_accuracy import training_page

    pages = {"training-accuracy": training_page, "inference-accuracy": inference_page}
    try:
        page.write_text(pages.get(found["kind"], accuracy_page)(found), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", file=page, field="--page") from None


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    keys = ("median_abs_error", "mean_abs_error", "p90_abs_error", "bias")
    shown = ["-" if figures[key] is None else f"{figures[key]:.1%}" for key in keys]
    return [name, str(figures["evaluated"]), *shown]
