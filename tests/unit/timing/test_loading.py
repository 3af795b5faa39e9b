"""Reading samples: by hand, and as a bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cosim.records import array
from cosim.timing.loading import exposed_seconds, loading_seconds

SIZES = st.floats(1e-3, 1e12)


def test_time_to_read_by_hand() -> None:
    # 4,096 images of 110 kB over two nodes of 1 GB/s each.
    found = loading_seconds(array(4096.0), array(110e3), array(2.0), array(1e9))
    assert found == 4096 * 110e3 / 2e9


def test_what_is_not_known_is_no_bound() -> None:
    found = loading_seconds(array(4.0), array([np.nan, 10.0]), array(1.0), array(5.0))
    np.testing.assert_array_equal(found, [0.0, 8.0])


@given(samples=SIZES, size=SIZES, nodes=st.integers(1, 4096), bandwidth=SIZES, step=SIZES)
def test_a_step_with_what_it_waits_is_the_longer_of_both(
    samples: float, size: float, nodes: int, bandwidth: float, step: float
) -> None:
    read = loading_seconds(array(samples), array(size), array(nodes), array(bandwidth))
    exposed = exposed_seconds(read, array(step))
    assert exposed >= 0.0
    np.testing.assert_allclose(step + exposed, max(step, read), rtol=1e-12)
    assert loading_seconds(array(samples), array(size), array(nodes), array(2.0 * bandwidth)) < read
