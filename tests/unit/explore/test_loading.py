"""Storage of a system: its own, or the usual one where samples are read."""

from __future__ import annotations

import numpy as np

from cosim.explore.loading import reads_unsaid, usual_storage, with_storage
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Scenario, lower_scenario
from cosim.overrides import Varied

SILENT = lower_scenario(Varied(Scenario()))
READS = lower_scenario(Varied(Scenario(bytes_per_sample=1e6)))


def machine(**changes: object) -> SystemArrays:
    return lower_system(vary_system(Varied(load_system("dgx-h100")), changes))


def test_the_usual_storage_has_a_source_and_a_range() -> None:
    usual = usual_storage()
    assert usual.si_range[0] < usual.si < usual.si_range[1]
    assert usual.source


def test_a_system_that_does_not_say_gets_the_usual_where_samples_are_read() -> None:
    plain = machine()
    assert np.isnan(plain.storage)
    assert with_storage(plain, SILENT) is plain
    assert reads_unsaid(plain, READS)
    assert with_storage(plain, READS).storage == usual_storage().si


def test_what_a_system_says_is_kept() -> None:
    own = machine(**{"server.storage": "5 GB/s"})
    assert with_storage(own, READS) is own
    assert own.storage == 5e9
    assert not reads_unsaid(own, READS)
