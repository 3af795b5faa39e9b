"""Runs a study from its file to a run folder: blocks with progress, parts for resume, findings at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosim import documents, library
from cosim.engines.analytic import Estimates
from cosim.errors import SpecError
from cosim.explore import compare
from cosim.explore.assumptions import assumptions
from cosim.explore.command import command_of
from cosim.explore.die import chip_of, die_columns
from cosim.explore.experiment import Study, load_study
from cosim.explore.findings import Finding, Run, as_json, findings, operators, whole_requests
from cosim.explore.rows import Columns, Text, columns
from cosim.explore.store import RunFolder, content_hash, host, stamp, write_json, write_results
from cosim.explore.training_study import training_blocks, training_goals
from cosim.hardware.load import described, read_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.software import load_software
from cosim.overrides import Varied, split_overrides, vary
from cosim.records import Array
from cosim.workload.load import Workload, load_workload, lower_workload
from cosim.workload.network import has_phase

Progress = Callable[[int, int, str], None]
ROOTS = ("system", "workload", "scenario")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a study reads: the study, systems and models with overrides, hashes of the files.

    `systems` and `models` serve, `training_systems` and `training_models` train; a study may have one part only.
    """

    study: Study
    systems: dict[str, Varied[System]]
    models: dict[str, Varied[Workload]]
    training_systems: dict[str, Varied[System]]
    training_models: dict[str, Varied[Workload]]
    hashes: dict[str, str]

    @property
    def every_system(self) -> dict[str, Varied[System]]:
        """Systems of both parts."""
        return {**self.systems, **self.training_systems}

    @property
    def every_model(self) -> list[Workload]:
        """Models of both parts, each once."""
        known = [*self.models.values(), *self.training_models.values()]
        return list({varied.spec.name: varied.spec for varied in known}.values())


def read_inputs(name: str, overrides: Mapping[str, Any]) -> Inputs:
    """The study called `name` with `overrides` by path. Raises SpecError before anything is written."""
    study = load_study(name)
    parts = split_overrides(overrides, ROOTS)
    serving, training = study.serving, study.training
    if serving is not None:
        lengths = vary(Varied(serving.scenario), parts["scenario"], root="scenario.").spec
        serving = serving.model_copy(update={"scenario": lengths})
        study = Study(study.name, serving, study.document)
    elif parts["scenario"]:
        raise SpecError("is not part of a study of training", field="scenario", hint="change global_batch in its runs")
    at = "" if serving is None else "training."
    files = [study.document.path]
    systems = _systems(study, serving.systems if serving else (), "systems", parts["system"], files)
    trained = _systems(study, training.systems if training else (), f"{at}systems", parts["system"], files)
    if serving is not None and serving.max_chips is not None and "nodes" in parts["system"]:
        raise SpecError("is chosen by the study", field="system.nodes", hint="change max_chips in its file")
    models = {
        name: _model(study, name, f"workload.{index}", parts["workload"], files)
        for index, name in enumerate(serving.workload if serving is not None else ())
    }
    trained_models = {
        run.workload: _model(study, run.workload, f"{at}runs.{index}.workload", parts["workload"], files, "train")
        for index, run in enumerate(training.runs if training else ())
    }
    _no_idle_decode(study, models)
    if training is not None:
        files += _software_files(study, training.software, f"{at}software")
    if serving is None and "nodes" in parts["system"]:
        raise SpecError("is not part of a study of training", field="system.nodes", hint="its chips say how many nodes")
    files.append(library.find("technology", "silicon"))
    return Inputs(study, systems, models, trained, trained_models, hashes_of(files))


def _software_files(study: Study, name: str, path: str) -> list[Path]:
    """Files of the training software, its bases included. Raises SpecError at its line."""
    try:
        load_software(name)
        return [document.path for document in described(name, "software")[1]]
    except SpecError as error:
        raise error.at(file=study.document.path, line=study.document.line(path)) from None


def _systems(
    study: Study, names: tuple[str, ...], path: str, changes: Mapping[str, Any], files: list[Path]
) -> dict[str, Varied[System]]:
    """Systems by name with their overrides; the files they come from are added. Raises SpecError at their line."""
    found: dict[str, Varied[System]] = {}
    for index, system in enumerate(names):
        try:
            spec, read = read_system(system)
            found[system] = vary_system(Varied(spec), changes)
        except SpecError as error:
            raise error.at(file=study.document.path, line=study.document.line(f"{path}.{index}")) from None
        files += [document.path for document in read]
    return found


def _no_idle_decode(study: Study, models: Mapping[str, Varied[Workload]]) -> None:
    """Refuses limits on decode where nothing decodes. Raises SpecError."""
    serving = study.serving
    if serving is not None and serving.decode is not None and set(models) == _networks(models):
        error = SpecError("is asked of networks alone", field="decode", hint="leave it out: they have prefill alone")
        raise error.at(file=study.document.path, line=study.document.line("decode"))


def _networks(models: Mapping[str, Varied[Workload]]) -> set[str]:
    """Names of the workloads that have prefill alone: networks of layers, encoders."""
    return {name for name, varied in models.items() if not lower_workload(varied).keeps_cache}


def _model(
    study: Study, name: str, path: str, changes: Mapping[str, Any], files: list[Path], phase: str = "prefill"
) -> Varied[Workload]:
    """A model with its overrides, that has the phase; its file is added. Raises SpecError at its line."""
    try:
        model = vary(Varied(load_workload(name)), changes, root="workload.")
        has_phase(lower_workload(model), phase)
    except SpecError as error:
        raise error.at(file=study.document.path, line=study.document.line(path)) from None
    files.append(library.find("workloads", name))
    return model


def hashes_of(files: list[Path]) -> dict[str, str]:
    """Content hash of every input by folder and name; a number is added where two files share both."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(p.resolve() for p in files):
        name = base = f"{path.parent.name}/{path.name}"
        count = 1
        while name in found:
            count += 1
            name = f"{base} ({count})"
        found[name] = content_hash(documents.read_text(path))
    return found


def run_study(
    name: str,
    out: Path,
    *,
    overrides: Mapping[str, Any],
    resume: bool = False,
    progress: Progress,
    report: Callable[[Path], object],
) -> Path:
    """Runs the study into the folder `out` and returns it. `report` makes figures and page in the unnamed folder.

    Raises SpecError on bad input before anything is written; a killed run leaves `<out>.partial`.
    """
    started = time.perf_counter()
    inputs = read_inputs(name, overrides)
    identity = stamp(inputs.study.document.text, overrides, inputs.hashes)
    everything = _blocks(inputs)
    folder = RunFolder(out)
    folder.start(content_hash(json.dumps(identity, sort_keys=True, default=str)), resume=resume)
    runs = _evaluated(everything, folder, progress)
    progress(0, 0, "break-even quality")
    serving, training = inputs.study.serving, inputs.study.training
    found, trained, whole = [], [], []
    if serving is not None:
        found = findings(runs, inputs.systems, compare.goals(serving, _networks(inputs.models)), serving.precisions)
        whole = whole_requests(found, serving.scenario)
    if training is not None:
        trained = findings(runs, inputs.training_systems, training_goals(training), [training.precision])
    _with_commands([*found, *trained], inputs, overrides)
    dies = {system: die_columns(chip_of(varied)) for system, varied in inputs.every_system.items()}
    rows = write_results(folder.partial, [_table(block, result, inputs, dies) for block, result in runs])
    elapsed = time.perf_counter() - started
    content = {
        **identity,
        **_about(inputs, runs),
        "points": rows,
        "feasible_points": int(sum(result.feasible.sum() for _, result in runs)),
        "elapsed_s": elapsed,
        "points_per_s": rows / elapsed,
        "findings": as_json(found),
        "training": as_json(trained),
        "whole_requests": whole,
        "operators": _operators(runs, found),
    }
    write_json(folder.partial / "run.json", content)
    progress(0, 0, "figures and page")
    report(folder.partial)
    return folder.finish()


def _with_commands(found: list[Finding], inputs: Inputs, overrides: Mapping[str, Any]) -> None:
    """Adds to every winner the command that makes its row again."""
    changes = {path: value for path, value in overrides.items() if path.split(".")[0] in ("system", "workload")}
    for finding in found:
        for entry in finding.entries:
            row = entry["row"]
            if row is not None:
                spec = inputs.every_system[entry["system"]].spec
                nodes = {"system.nodes": round(row["chips"] * spec.nodes.si / spec.chips)}
                changed = {**changes, **nodes}
                entry["command"] = command_of(row, entry["system"], finding.goal.workload, changed)


def _about(inputs: Inputs, runs: list[Run]) -> dict[str, Any]:
    """What a run is about, apart from its results: question, systems, models, host, warnings, assumptions."""
    study = inputs.study.compared
    chips = {name: (varied.spec, varied.spec.chip) for name, varied in inputs.every_system.items()}
    return {
        "name": inputs.study.name,
        "kind": study.kind,
        "question": study.question,
        "systems": {
            name: {"title": spec.title, "chip": chip.title, "confidence": chip.confidence}
            for name, (spec, chip) in chips.items()
        },
        "workload": {
            "name": inputs.every_model[0].name,
            "title": ", ".join(model.title for model in inputs.every_model),
        },
        "host": host(),
        "warnings": _warnings(inputs, runs),
        "rooflines": _rooflines(inputs),
        "assumptions": assumptions(inputs.every_system, inputs.every_model, study),
    }


def _blocks(inputs: Inputs) -> list[compare.Block]:
    """Every block of the study. Raises SpecError where no system has any of the formats."""
    serving, training, document = inputs.study.serving, inputs.study.training, inputs.study.document
    everything: list[compare.Block] = []
    if serving is not None:
        models = {name: lower_workload(model) for name, model in inputs.models.items()}
        everything += compare.blocks(serving, inputs.systems, models)
        if not everything:
            raise SpecError(
                "no system has a matrix rate in any of these",
                file=document.path,
                line=document.line("precisions"),
                field="precisions",
                value=list(serving.precisions),
                hint="'cosim show CHIP' lists its formats; native is each chip's best",
            )
    if training is not None:
        models = {name: lower_workload(model) for name, model in inputs.training_models.items()}
        equal = inputs.study.compared.equal_quality
        try:
            trained = list(training_blocks(training, inputs.training_systems, models, equal))
        except SpecError as error:
            at = "chips" if serving is None else "training.chips"
            raise error.at(file=document.path, line=document.line(at)) from None
        if not trained:
            at = "precision" if serving is None else "training.precision"
            raise SpecError(
                "no system has a matrix rate in it, or a legal plan",
                file=document.path,
                line=document.line(at),
                field=at,
                value=training.precision,
                hint="'cosim show CHIP' lists its formats",
            )
        everything += trained
    return everything


def _evaluated(everything: list[compare.Block], folder: RunFolder, progress: Progress) -> list[Run]:
    """Estimates of every block: stored ones taken up, others evaluated and stored."""
    runs: list[Run] = []
    for index, block in enumerate(everything):
        what = block.goal or f"{block.workload} {block.phase}"
        progress(index, len(everything), f"{block.system} {what} {block.label} {block.quality}")
        result = folder.part(index)
        if result is None:
            result = compare.run_block(block)
            folder.keep(index, result)
        runs.append((block, result))
    progress(len(everything), len(everything), "evaluated")
    return runs


def _table(block: compare.Block, result: Estimates, inputs: Inputs, dies: Mapping[str, Mapping[str, Array]]) -> Columns:
    confidence = inputs.every_system[block.system].spec.chip.confidence
    table = columns(block.case, result, quality=block.quality, confidence=confidence, die=dies[block.system])
    # The study's own names, which may be files: findings and figures use them.
    count = len(result.time)
    table["system"], table["workload"] = Text.same(block.system, count), Text.same(block.workload, count)
    return {**table, "precision": Text.same(block.label, count)}


def _operators(runs: list[Run], found: list[Finding]) -> dict[str, Any]:
    """Operators of every system's winner, per goal text, in the first precision of the study."""
    by_key = {(b.system, b.workload, b.phase, b.label, b.quality): b for b, _ in runs if not b.goal}
    chosen: dict[str, Any] = {}
    for finding in found:
        if finding.label != found[0].label:
            continue
        chosen[finding.goal.text] = {
            entry["system"]: operators(
                by_key[entry["system"], finding.goal.workload, finding.goal.phase, finding.label, "own"], entry["index"]
            )
            for entry in finding.entries
            if entry["row"] is not None
        }
    return chosen


def _rooflines(inputs: Inputs) -> dict[str, Any]:
    """Peak by format and DRAM bandwidth of each chip, for the roofline figure."""
    from cosim.hardware.lower import lower_system

    lines: dict[str, Any] = {}
    for name, varied in inputs.systems.items():
        chip = lower_system(varied).chip
        peaks = {dtype: float(np.max(peak)) for dtype, peak in chip.matrix.peak.items()}
        lines[name] = {"peak": peaks, "bandwidth": float(np.max(chip.memory["dram"].bandwidth))}
    return lines


def _warnings(inputs: Inputs, runs: list[Run]) -> list[str]:
    """What a reader must know before trusting a row."""
    notes = []
    for name, varied in inputs.every_system.items():
        chip = varied.spec.chip
        if chip.confidence != "measured":
            notes.append(f"{name}: kernels of {chip.name} are not fitted on it ({chip.confidence}); see its ranges")
        if chip.price is not None and chip.price.kind == "estimated":
            notes.append(
                f"{name}: the price of {chip.name} is not published: {chip.price.text}, "
                f"{chip.price.note or chip.price.source}"
            )
        if chip.status == "template":
            notes.append(f"{name}: peak, area, power, links and price of {chip.name} are design choices, not a product")
    sized = [block.workload for block, _ in runs if not block.case.model.has_tokens]
    notes += [f"an item of {name} counts as one token in tokens/s" for name in dict.fromkeys(sized)]
    dies = ", ".join(f"{name} {varied.spec.chip.die.node}" for name, varied in inputs.every_system.items())
    notes.append(f"process and memory generations differ ({dies}): a lead may be theirs")
    servers = ", ".join(f"{name} {varied.spec.server.power.text}" for name, varied in inputs.every_system.items())
    notes.append(f"power of the server around the chips is a constant ({servers}); tokens/J at the server rest on it")
    formats = {block.system: block.case.plan.dtype for block, _ in runs if block.label == "native"}
    if formats:
        shown = ", ".join(f"{name} {dtype}" for name, dtype in formats.items())
        notes.append(f"native formats differ ({shown}); what they cost in answer quality is not modelled")
    if inputs.study.training is not None:
        software = load_software(inputs.study.training.software)
        notes.append(
            f"training assumes {software.title} on every system: what it overlaps and what its host costs are "
            "estimates there, fitted on A100 systems of 2023 alone"
        )
    notes.append("energies are built up from estimates on every chip; ranges are in the assumptions")
    return notes
