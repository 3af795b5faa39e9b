"""Time of the search over deployments for serving, printed: a 32B model on 8 H200, 4,000 tokens in and 500 out.

    python benchmarks/serving_search.py             closed form alone, then with the front and the capacity simulated
    python benchmarks/serving_search.py SYSTEM MODEL CHIPS

Limits are a second to the first token and 30 ms for each further one. Seconds are of the wall clock of one process on
whatever machine this is, the second of two runs; reading system and model is not in them.
"""

from __future__ import annotations

import sys
import time

import cosim
from cosim.explore.serving.search import ServingResult

PROMPT, OUTPUT = 4000, 500


def main() -> None:
    """Prints the times, the best in closed form and by simulation, and the capacity."""
    system, model, chips = sys.argv[1:] or ("dgx-h200", "qwen3-32b", "8")
    machine, workload = cosim.system(system), cosim.workload(model)

    def searched(check: str) -> tuple[ServingResult, float]:
        start = time.perf_counter()
        found = cosim.search_serving(
            machine,
            workload,
            prompt=PROMPT,
            output=OUTPUT,
            ttft_limit="1 s",
            tpot_limit="30 ms",
            chips=int(chips),
            check=check,
        )
        return found, time.perf_counter() - start

    searched("none")
    found, seconds = searched("none")
    print(f"{model} on {chips} chips of {system}: {len(found.found):,} deployments, {seconds:.2f} s in closed form")
    found, seconds = searched("closed_loop")
    members = f"{len(found.checked)} of {len(found.front)} front members"
    print(f"{seconds:.2f} s with {members} and the capacity simulated")
    for name in ("best", "holds"):
        row = found.findings[name]
        if row is not None:
            print(f"{name:<6}{row['plan']}: {_figures(row)}")
            if row["simulated"] is not None:
                print(f"{'':<6}simulated: {_figures(row['simulated'])}")
    if found.capacity is not None:
        print(f"capacity {found.capacity.rate:.3g} requests/s ({found.capacity.statistic} within the limits)")


def _figures(row: dict[str, float]) -> str:
    rate, ttft, tpot = row["tokens_per_s_per_chip"], row["ttft_s"], row["tpot_s"]
    return f"{rate:,.0f} tokens/s/chip, TTFT {ttft * 1e3:.0f} ms, TPOT {tpot * 1e3:.1f} ms"


if __name__ == "__main__":
    main()
