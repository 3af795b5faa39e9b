"""Pipeline stages as at most four classes: first, fuller middle, leaner middle, last.

Layers are split as evenly as they go. The stages that get one layer more are middle ones first, because
first and last also hold the embedding and the head. With one stage, `first` is everything.

Where pieces of stages do not divide the layers, or stages outnumber them, embedding and head each take the place of a
layer (Megatron: account_for_embedding_in_pipeline_split, account_for_loss_in_pipeline_split): 126 layers on 8 stages of
8 pieces are 15, 16 ... 16, 15. Pieces of one stage count alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.records import Array, array

CLASSES = ("first", "middle_full", "middle_lean", "last")


@dataclass(frozen=True, slots=True)
class Stages:
    """Arrays of shape (4, P) in the order of CLASSES: stages of the class, layers, embeddings, heads of each.

    `dense` of the layers have a dense feed-forward in a mixture of experts: the model's first ones.
    """

    count: Array
    layers: Array
    embeds: Array
    heads: Array
    dense: Array
    between: bool = False
    """Whether the others lie between them, so that the first layers of a stage have their share of them."""


ENDS = 2.0
"""Places of layers that embedding and head take together."""


def stages(
    layers: Array,
    pipeline: Array,
    dense: Array | float = 0.0,
    *,
    between: bool = False,
    virtual: Array | float = 1.0,
) -> Stages:
    """Classes of `pipeline` stages that share `layers`; shape (4, P) also where both are scalars (P = 1).

    `dense` layers fill the first stage and then the following classes in turn, evenly inside a class; or, `between`
    the others, they are spread over all stages alike. `virtual` pieces of a stage.
    """
    given = (layers, pipeline, dense, virtual)
    layers, pipeline, dense, virtual = np.broadcast_arrays(*(np.atleast_1d(array(each)) for each in given))
    place = np.where(ends_take_places(layers, pipeline, virtual), ENDS / 2.0, 0.0)
    places = layers + 2.0 * place
    base = np.floor(places / pipeline)
    extra = places - base * pipeline
    middle = np.maximum(pipeline - 2.0, 0.0)
    full = np.minimum(extra, middle)
    first_extra = np.minimum(extra - full, 1.0)
    single = np.where(pipeline == 1.0, 1.0, 0.0)
    zero, one = np.zeros_like(base), np.ones_like(base)
    count = np.stack([one, full, middle - full, 1.0 - single])
    held = np.stack([base + first_extra - place, base + 1.0, base, base - place])
    filled = np.clip(dense - in_front(count * held), 0.0, count * held)
    return Stages(
        count=count,
        layers=held,
        embeds=np.stack([one, zero, zero, zero]),
        heads=np.stack([single, zero, zero, one]),
        dense=held * dense / layers if between else filled / np.maximum(count, 1.0),
        between=between,
    )


def summed_up(values: Array) -> Array:
    """Sums of `values` (4, P) over the classes up to each: row by row, which is many times as quick as a cumsum."""
    total = values.copy()
    for row in range(1, len(total)):
        total[row] += total[row - 1]
    return total


def in_front(values: Array) -> Array:
    """Sums of `values` (4, P) over the classes in front of each."""
    found: Array = summed_up(values) - values
    return found


def comes_out_even(layers: Array | float, pieces: Array | float) -> NDArray[np.bool_]:
    """Whether so many pieces of a pipeline hold alike: of layers, or of layers with embedding and head for one each."""
    found: NDArray[np.bool_] = (np.mod(layers, pieces) == 0.0) | (np.mod(layers + ENDS, pieces) == 0.0)
    return found


def ends_take_places(layers: Array, pipeline: Array, virtual: Array | float) -> NDArray[np.bool_]:
    """Whether embedding and head each take the place of a layer: several pieces that do not divide, or many stages."""
    uneven = (virtual > 1.0) & (np.mod(layers, pipeline * virtual) > 0.0)
    found: NDArray[np.bool_] = (pipeline > 1.0) & (uneven | (pipeline > layers))
    return found


def fullest(stage: Stages, values: Array) -> NDArray[np.intp]:
    """Index (1, P) of the class, among those that have a stage, where `values` (4, P) are most; for `at_class`."""
    present: Array = np.where(stage.count > 0.0, values, -np.inf)
    return np.expand_dims(np.argmax(present, axis=0), 0)


def at_class(values: Array, index: NDArray[np.intp]) -> Array:
    """`values` of every class, (4, P) or alike for all, at the class that `index` (1, P) names: (P,)."""
    shape = (len(CLASSES), index.shape[-1])
    chosen: Array = np.take_along_axis(np.broadcast_to(values, shape), index, axis=0)[0]
    return chosen


def by_group(stage: Stages, group: str) -> Array:
    """How often ops of `group` run on a stage of each class (4, P)."""
    if group == "moe":
        return stage.layers - stage.dense
    return {"layer": stage.layers, "dense": stage.dense, "embed": stage.embeds, "head": stage.heads}[group]
