"""What is asked wrongly is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cosim.engines.serving.layout import Held, Layout
from cosim.engines.serving.settings import (
    Autoscale,
    ClosedLoop,
    Cluster,
    Failures,
    Pool,
    Scheduler,
    Speculation,
    Swap,
    Transfer,
)
from cosim.errors import SpecError

SCALE: dict[str, Any] = {
    "measure": "queue",
    "target": 1.0,
    "least": 1,
    "most": 4,
    "interval_s": 1.0,
    "start_s": 1.0,
    "cool_down_s": 1.0,
}


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (lambda: Scheduler(0), "kv_blocks"),
        (lambda: Scheduler(10, batching="chunky"), "batching"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Scheduler(10, policy="lifo"), "policy"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Scheduler(10, watermark=1.0), "watermark"),
        (lambda: Scheduler(10, block_tokens=0), "block_tokens"),
        (lambda: Scheduler(10, max_sequences=True), "max_sequences"),
        (lambda: Scheduler(10, token_budget=99, max_sequences=100), "token_budget"),
        (lambda: Scheduler(10, token_budget=100, max_sequences=64, speculation=Speculation((0.5,))), "token_budget"),
        (lambda: Scheduler(10, prefix_tokens=24), "prefix_tokens"),
        (lambda: Scheduler(10, prefix_tokens=16, layout=Layout(0, 1, 0, 64)), "prefix_tokens"),
        (lambda: Scheduler(10, ageing_s=0.0), "ageing_s"),
        (lambda: Scheduler(10, max_context=1), "max_context"),
        (lambda: Scheduler(10, batching="static", speculation=Speculation((0.5,))), "speculation"),
        (lambda: Speculation(()), "speculation.acceptance"),
        (lambda: Speculation((0.5, 1.5)), "speculation.acceptance"),
        (lambda: Swap(0.0, 1.0), "swap.token_bytes"),
        (lambda: Swap(1.0, float("nan")), "swap.bandwidth"),
        (lambda: Transfer(-1.0, 1.0, 1.0), "transfer.latency_s"),
        (lambda: Transfer(0.0, 1.0, 1.0, 0), "transfer.concurrent"),
        (lambda: Failures(0.0, 1.0), "failures.mean_up_s"),
        (lambda: Failures(1.0, 0.0), "failures.mean_repair_s"),
        (lambda: ClosedLoop(0), "closed_loop.concurrency"),
        (lambda: ClosedLoop(1, -1.0), "closed_loop.think_s"),
        (lambda: ClosedLoop(1, 0.0, 0), "closed_loop.total"),
        (lambda: Autoscale(**{**SCALE, "most": 0}), "autoscale.most"),
        (lambda: Autoscale(**{**SCALE, "measure": "heat"}), "autoscale.measure"),
        (lambda: Autoscale(**{**SCALE, "measure": "utilisation", "target": 1.5}), "autoscale.target"),
        (lambda: Autoscale(**{**SCALE, "interval_s": 0.0}), "autoscale.interval_s"),
    ],
)
def test_wrong_settings_are_named(made: Callable[[], object], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        made()
    assert refused.value.field == field
    assert refused.value.value is not None or field in {"speculation.acceptance", "speculation"}


def test_parts_of_a_cluster_go_together(table: Any) -> None:
    pool = Pool(table(), Scheduler(100))
    transfer = Transfer(0.0, 1e9, 1e5)
    static = Pool(table(), Scheduler(100, batching="static"))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prefill": pool}, "transfer"),
        ({"transfer": transfer}, "prefill"),
        ({"prefill": static, "transfer": transfer}, "prefill.scheduler.batching"),
        ({"routing": "best"}, "routing"),
        ({"routing": "prefix_aware"}, "routing"),
        ({"autoscale": Autoscale(**{**SCALE, "least": 2})}, "replicas"),
    ]
    for changes, field in wrong:
        with pytest.raises(SpecError) as refused:
            Cluster(pool, **changes)
        assert refused.value.field == field
    with pytest.raises(SpecError) as refused:
        Pool(table(draft_s=None), Scheduler(100, token_budget=512, speculation=Speculation((0.5,))))
    assert refused.value.field == "table.draft_s"
    assert Pool(table(draft_s=None), Scheduler(100, speculation=Speculation((0.5,), n_gram=True))).replicas == 1


def test_seconds_of_moves() -> None:
    assert Swap(4.0, 2.0).seconds(10) == 20.0
    assert Transfer(0.5, 2.0, 4.0).seconds(10) == 20.5


def test_numbers_that_follow() -> None:
    scheduler = Scheduler(250, watermark=0.01, speculation=Speculation((0.5, 0.5, 0.5)))
    assert (scheduler.verified, scheduler.watermark_blocks) == (4, 2)
    assert Speculation((0.5, 0.5)).mean_tokens == pytest.approx(1.75)


def test_static_batches_reserve_whole_answers() -> None:
    assert Scheduler(10, batching="static").whole
    assert not Scheduler(10).whole
    assert Scheduler(10, reserve="whole").whole
    with pytest.raises(SpecError, match="reserve"):
        Scheduler(10, reserve="all")  # type: ignore[arg-type]


def test_moves_are_of_the_bytes_that_are_kept() -> None:
    held = Held(1e6, 1e3, 0.0, 100)
    assert Transfer(0.5, 1e6, 1e3).seconds(200) == pytest.approx(0.7)
    assert Transfer(0.5, 1e6, 1e3, held=held).seconds(200) == pytest.approx(0.5 + 1.1)
    assert Swap(1e3, 1e6).seconds(200) == pytest.approx(0.2)
    assert Swap(1e3, 1e6, held).seconds(200) == pytest.approx(1.1)
