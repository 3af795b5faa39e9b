"""A deployment simulated from Python: settings as data in, a frozen result with rows and records out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cosim.explore.serving import serve_rows
from cosim.explore.serving.demand import block_tokens_of, pattern_of, varied_pattern
from cosim.explore.serving.deployed import Deployed, Given, deployed
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.records import Served
from cosim.explore.serving.serve_file import Serve
from cosim.explore.serving.serve_run import seeds_of
from cosim.explore.serving.simulate import Outcome, simulate
from cosim.explore.serving.store import arrow_records
from cosim.hardware.system import System
from cosim.overrides import Varied
from cosim.schema import validated
from cosim.workload.load import Workload


@dataclass(frozen=True, slots=True)
class ServingResult:
    """What was served: the deployment as it was simulated, and one outcome with its records a seed."""

    deployed: Deployed
    outcomes: tuple[Outcome, ...]
    served: tuple[tuple[Served, ...], ...]

    def to_row(self) -> dict[str, Any]:
        """All figures by column name, means over seeds; `.low` and `.high` bound them where there are several."""
        rows = [outcome.row for outcome in self.outcomes]
        return {**serve_rows.about(self.deployed.name, self.deployed), **serve_rows.summed_up(rows)}

    def rows(self) -> list[dict[str, Any]]:
        """All figures of each seed."""
        shared = serve_rows.about(self.deployed.name, self.deployed)
        return [{**shared, "seed": seed, **each.row} for seed, each in enumerate(self.outcomes)]

    def table(self) -> Any:  # noqa: ANN401  # pyarrow ships no types
        """The rows of all seeds as an Arrow table with units."""
        return serve_rows.table_of(self.rows())

    def records(self, seed: int = 0) -> Any:  # noqa: ANN401  # pyarrow ships no types
        """Every served request of a seed as an Arrow table with units."""
        import pyarrow as pa

        parts = [arrow_records({name: getattr(part, name) for name in Served.__slots__}) for part in self.served[seed]]
        return pa.concat_tables(parts).combine_chunks()


def serve_asked(
    system: Varied[System], model: Varied[Workload], settings: Mapping[str, Any], *, seeds: int = 1
) -> ServingResult:
    """A deployment of `model` on `system`; `settings` hold what the file of a study does. Raises SpecError,
    InfeasibleError.
    """
    named = {"system": system.spec.name, "workload": model.spec.name}
    study = validated(Serve, {"kind": "serve", "question": "", **named, **settings, "seeds": seeds})
    pattern, _ = pattern_of(study.requests)
    (name, asked), *_ = study.merged().items()
    ready = deployed(name, asked, {}, block_tokens_of(pattern), Given(system, model))
    limits = Limits(study.limits.ttft, study.limits.tpot, study.limits.e2e)
    pattern = varied_pattern(pattern, asked.scenario)
    outcomes, served = [], []
    for seed in seeds_of(study):
        parts: list[Served] = []
        outcomes.append(simulate(ready, pattern, limits, seed, warm_up_s=study.warm_up, taken=parts.append))
        served.append(tuple(parts))
    return ServingResult(ready, tuple(outcomes), tuple(served))
