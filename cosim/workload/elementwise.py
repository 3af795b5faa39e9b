"""Work of a transformer's elementwise kernels: FLOP and exponentials an element, and what a norm owns."""

from __future__ import annotations

from cosim.records import Array
from cosim.workload.model import ModelArrays

ACTIVATIONS = {"smooth": (6.0, 1.0), "relu": (1.0, 0.0), "squared_relu": (2.0, 0.0)}
"""FLOP and exponentials an element: a comparison for ReLU, a product more for its square."""


def activation_work(model: ModelArrays) -> tuple[float, float]:
    """FLOP and exponentials of the feed-forward's activation, for each element that it writes."""
    return ACTIVATIONS[model.activation]


def norm_flop(model: ModelArrays) -> float:
    """FLOP of a norm of the stream, for each element that it writes."""
    return 5.0 if model.norm == "rms" else 8.0


def norm_parameters(model: ModelArrays) -> Array:
    """Numbers that a norm of the stream owns: a scale a channel, and a shift where it is no root mean square."""
    return model.hidden * (1.0 if model.norm == "rms" else 2.0)
