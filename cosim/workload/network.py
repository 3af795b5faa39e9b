"""The description of a network that is no decoder transformer, and its lowering to arrays.

One forward pass over `scenario.batch` items is its prefill. It has no cache and no heads to split: every chip holds
it whole, and replicas share the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel, model_validator

from cosim.datum import Count, Factor
from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.schema import Frozen
from cosim.workload.layers import SAME_AS, TOKENS, Layer, LayerArrays
from cosim.workload.model import Dim, ModelArrays


class Network(Frozen):
    """A network as a list of layers, each with how often it occurs. Their order is that of the lists of operators."""

    kind: Literal["network"]
    name: str
    title: str
    source: str
    """Where the dimensions come from."""
    input: str
    """What one item is, in words: an image of 224 x 224, a sequence."""
    max_positions: Dim | None = None
    """Most tokens; None where positions do not end."""
    layers: tuple[Layer, ...]
    items_per_sample: Count | None = None
    """Items that a sample of the benchmark takes that measures the network; None is not stated."""
    items_per_long_sample: Factor | None = None
    """The same of a sample at the 90th percentile, where samples differ; None: as the mean."""
    published_parameters: Count | None = None
    """The count that the maker states: a check, not an input."""
    published_macs: Count | None = None
    """Multiply-accumulates of one item that the source states: a check. For networks whose items have one size."""

    @model_validator(mode="after")
    def _names_once(self) -> Network:
        if not self.layers:
            raise SpecError("names no layer", field="layers", hint="'cosim schema network' shows what belongs in it")
        names = [layer.name for layer in self.layers]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise SpecError("is the name of another layer", field=f"layers.{index}.name", value=name)
        return self


def lower_network(varied: Varied[Network]) -> ModelArrays:
    """Arrays of a network with its overrides (paths are layers.<name>.<size>)."""
    network, arrays = varied.spec, varied.arrays
    one, nothing = array(1.0), array(0.0)
    return ModelArrays(
        name=network.name,
        layers=one,
        hidden=nothing,
        ffn=one,
        heads=one,
        kv_heads=one,
        head_dim=nothing,
        vocab=nothing,
        max_positions=arrays.get("max_positions", array(network.max_positions or np.inf)),
        window=nothing,
        windowed_layers=nothing,
        gated=False,
        norm="layer",
        position="none",
        tied_embeddings=False,
        qkv_bias=False,
        output_bias=False,
        ffn_bias=False,
        qk_norm=False,
        has_window=False,
        network=tuple(_layer(layer, f"layers.{index}.", arrays) for index, layer in enumerate(network.layers)),
    )


def has_phase(model: ModelArrays, phase: str) -> None:
    """Refuses a phase that a workload has not: decode of networks and encoders.

    Training of models whose attention has no gradients here is refused too.

    Raises SpecError.
    """
    if model.network and phase == "decode":
        hint = "'estimate prefill' is one forward pass over scenario.batch items"
        raise SpecError("has no decode step: it is a network of layers", field="workload", value=model.name, hint=hint)
    if not model.causal and phase == "decode":
        hint = "'estimate prefill' is one pass over scenario.batch sequences"
        raise SpecError("has no decode step: it is an encoder", field="workload", value=model.name, hint=hint)
    if phase == "train" and any(layer.kind == "lstm" for layer in model.network):
        hint = "'estimate prefill' is one forward pass over scenario.batch items"
        raise SpecError("is not trained here: it has recurrent layers", field="workload", value=model.name, hint=hint)
    parts = {
        "linear attention": model.delta is not None,
        "attention with an index or a gate": model.is_indexed or model.output_gate,
        "an encoder": model.encoder is not None,
    }
    if phase == "train" and any(parts.values()):
        what = next(name for name, has in parts.items() if has)
        hint = "'estimate prefill' and 'estimate decode' serve it"
        raise SpecError(f"is not trained here: it has {what}", field="workload", value=model.name, hint=hint)


def _layer(layer: BaseModel, prefix: str, arrays: Mapping[str, Array]) -> LayerArrays:
    """Arrays of one layer: numbers and words of its fields, sizes left open filled in."""
    sizes: dict[str, Array] = {}
    of_tokens: list[str] = []
    choices: dict[str, str | bool] = {}
    for field in type(layer).model_fields:
        asked = field if getattr(layer, field) is not None or f"{prefix}{field}" in arrays else SAME_AS[field]
        value, path = getattr(layer, asked), f"{prefix}{asked}"
        if path in arrays:
            sizes[field] = arrays[path]
        elif value == TOKENS:
            of_tokens.append(field)
        elif isinstance(value, bool | str):
            choices[field] = value
        else:
            sizes[field] = array(value)
    count, turns = sizes.pop("count"), sizes.pop("turns")
    name, kind = str(choices.pop("name")), str(choices.pop("kind"))
    return LayerArrays(name, kind, count, sizes, tuple(of_tokens), choices, turns)
