"""When to save a training run: the optimum that is known to first order, to higher order, and without approximation.

C is the time that a checkpoint stops the job, M the mean time between failures of the whole job. All take arrays.

    Young 1974    sqrt(2 C M)
    Daly 2006     sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C    for C < 2M, else M
    exact         M (1 + W(-exp(-1 - C / M))), W of Lambert: the least of M exp(R / M) (exp((t + C) / M) - 1) / t over t
"""

from __future__ import annotations

import numpy as np

from cosim.records import Array, array


def young(save: Array, mtbf: Array) -> Array:
    """Work between checkpoints to first order [s] (J. W. Young, CACM 17(9), 1974). `save`, `mtbf` [s]."""
    return np.sqrt(2.0 * array(save) * array(mtbf))


def daly(save: Array, mtbf: Array) -> Array:
    """Work between checkpoints to higher order [s] (J. T. Daly, FGCS 22(3), 2006, equation 37). `save`, `mtbf` [s]."""
    part = np.sqrt(array(save) / (2.0 * array(mtbf)))
    found: Array = np.where(part < 1.0, young(save, mtbf) * (1.0 + part / 3.0 + part**2 / 9.0) - save, mtbf)
    return found


def best_interval(save: Array, mtbf: Array) -> Array:
    """Work between checkpoints that makes a run shortest [s], for failures at a constant rate. `save`, `mtbf` [s].

    Restart and detection multiply the time of any interval alike, so the optimum does not know them. Near C / M = 0,
    where W loses its digits, it is Young's less 2 C / 3.
    """
    from scipy.special import lambertw

    save, mtbf = np.broadcast_arrays(array(save), array(mtbf))
    small = save < 1e-8 * mtbf
    exact = mtbf * (1.0 + np.real(lambertw(-np.exp(-1.0 - save / mtbf))))
    found: Array = np.where(small, young(save, mtbf) - 2.0 * save / 3.0, exact)
    return found
