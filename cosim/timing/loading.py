"""Reading samples from storage: a bound on a step, because they are read ahead of use behind the step before.

    loading = samples x bytes of a sample / (nodes x bandwidth of a node)
    exposed = what of it is longer than the step

Decoding, augmentation and the host's memory that holds what waits are not modelled.
"""

from __future__ import annotations

import numpy as np

from cosim.records import Array


def loading_seconds(samples: Array, sample_bytes: Array, nodes: Array, bandwidth: Array) -> Array:
    """Time to read the samples of a step [s]: nothing where `sample_bytes` [B] are unknown (NaN).

    `bandwidth` [B/s] is that of each of `nodes`. Arrays of shape () or (P,).
    """
    found: Array = np.where(np.isnan(sample_bytes), 0.0, samples * sample_bytes / (nodes * bandwidth))
    return found


def exposed_seconds(loading: Array, step: Array) -> Array:
    """What a step [s] waits for samples that take `loading` [s] to read."""
    found: Array = np.maximum(loading - step, 0.0)
    return found
