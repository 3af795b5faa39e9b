"""A cell of the study: one structure (chip kind, op list, formats), numbers along the points axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cosim.hardware.lower import SystemArrays
from cosim.mapping.adapters import adapted
from cosim.mapping.compiled import compiled
from cosim.mapping.device import DeviceGraph
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.recompute import check_modules
from cosim.mapping.schedules import held
from cosim.mapping.serving import ServingArrays
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, stages
from cosim.mapping.widths import widened
from cosim.records import Array, array
from cosim.workload.blocks import scaled
from cosim.workload.graph import decode_graph, prefill_graph
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Graph
from cosim.workload.sides import Side, side_of
from cosim.workload.step import step_graph
from cosim.workload.training import training_graph
from cosim.workload.work import Work, shared

Phase = Literal["prefill", "decode", "train", "serve"]
"""serve is a step of any mixture of prompts and decodes: `Case.work`."""


@dataclass(frozen=True, slots=True)
class Case:
    """Points that share a structure. Every numeric leaf has shape () or (P,)."""

    phase: Phase
    system: SystemArrays
    model: ModelArrays
    plan: PlanArrays
    scenario: ScenarioArrays
    software: SoftwareArrays | None = None
    """Training alone."""
    work: Work | None = None
    """What a step of phase `serve` works on, over the whole system."""
    stack: ServingArrays | None = None
    """Serving software; None: the chip's own kernels and host."""
    side: Side = "whole"
    """Layers of phase `serve` that these chips hold: see `cosim.engines.served_split`."""


def micro_batch_graph(case: Case) -> Graph:
    """Unsharded graph of one micro-batch of one replica (training: the forward pass)."""
    imbalance = case.scenario.expert_imbalance
    if case.phase == "train":
        fused = case.software is None or case.software.fused
        # A rank's share of the tokens of every sequence is as much work as that share of the sequences: attention is
        # dealt out so that all ranks have the same of it.
        sequences = case.plan.micro_batch / case.plan.context
        return training_graph(case.model, sequences, case.scenario.context, fused=fused, imbalance=imbalance)
    if case.work is not None:
        part = shared(case.work, case.plan.data * case.plan.micro_batches)
        if not case.model.keeps_cache:
            prompts = part.prompts
            return scaled(prefill_graph(case.model, prompts.sequences, prompts.query), part.prefills)
        return side_of(step_graph(case.model, part, imbalance=imbalance, latent=case.plan.latent), case.side)
    sequences = case.scenario.batch / (case.plan.data * case.plan.micro_batches)
    build = prefill_graph if case.phase == "prefill" else decode_graph
    absorbed = case.plan.latent == "absorbed" or (case.plan.latent == "best" and case.phase == "decode")
    return build(case.model, sequences, case.scenario.context, imbalance=imbalance, absorbed=absorbed)


def device_graph(case: Case, graph: Graph | None = None) -> DeviceGraph:
    """The same as one tensor rank sees it; `graph` spares making it anew."""
    graph = micro_batch_graph(case) if graph is None else graph
    narrow = {} if case.phase == "train" else case.model.quantised
    device = shard(graph, case.plan, case.system.node_chips, narrow)
    if case.stack is not None and case.stack.compiles:
        return compiled(device, case.plan.dtype)
    if case.phase != "train" or case.software is None:
        return device
    return widened(with_adapters(device, case), graph, case.plan, case.software)


def check_recompute(case: Case) -> None:
    """Refuses modules that the model has not, and layers where nothing is computed again. Raises SpecError."""
    if case.plan.recompute_modules or np.any(np.isfinite(case.plan.recompute_layers)):
        check_modules(device_graph(case), case.plan)


def with_adapters(device: DeviceGraph, case: Case) -> DeviceGraph:
    """The forward pass with adapters, where the scenario trains these."""
    return adapted(device, case.scenario.adapter_rank) if case.scenario.updates == "adapters" else device


def stage_classes(case: Case) -> Stages:
    """Stage classes of the case, shape (4, P), as its schedule has stages hold embedding and head."""
    return held(split_layers(case), case.plan.schedule)


def split_layers(case: Case) -> Stages:
    """Stage classes as the pipeline splits the model, shape (4, P)."""
    model = case.model
    # Schedules with a number of pieces of their own ask that they divide the layers.
    virtual = case.plan.virtual if case.phase == "train" and case.plan.schedule == "1f1b" else array(1.0)
    return stages(model.layers, case.plan.pipeline, model.dense_layers, between=model.dense_between, virtual=virtual)


def new_tokens(case: Case) -> Array:
    """Tokens that one step works on over the whole system: the prompts, or one per sequence.

    An item of a network whose layers know no tokens counts as one.
    """
    if case.phase == "train":
        return case.scenario.global_batch * (case.scenario.context if case.model.has_tokens else array(1.0))
    long = case.phase == "prefill" and case.model.has_tokens
    return case.scenario.batch * (case.scenario.context if long else array(1.0))
