"""Images a second: over batches, and with requests in parallel where the target has them."""

from __future__ import annotations

import pytest
from test_targets import READY, small_network

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.throughput import measure_throughput
from fbn_deploy.targets import Parallel, Target

every_ready_target = pytest.mark.parametrize("target", READY, ids=lambda target: target.name)


@every_ready_target
def test_rates_are_images_over_time_for_every_batch(target: Target) -> None:
    found = measure_throughput(small_network(batch="N"), target, threads=1, batches=(2, 1))
    alone = [rate for rate in found.rates if rate.requests == 1]
    assert {rate.batch for rate in alone} == {1, 2}
    for rate in found.rates:
        in_flight = rate.batch * rate.requests
        assert rate.images_per_s == pytest.approx(1000 * in_flight / rate.run_ms)
    assert len(found.rates) == (4 if isinstance(target, Parallel) else 2)
    assert found.best.images_per_s == max(rate.images_per_s for rate in found.rates)
    assert found.target in found.text()


@every_ready_target
def test_a_fixed_batch_ends_the_sweep_with_its_reason(target: Target) -> None:
    found = measure_throughput(small_network(batch=1), target, threads=1, batches=(1, 2))
    assert {rate.batch for rate in found.rates} == {1}
    assert "fixed batch of 1" in found.stopped
    with pytest.raises(FBNError, match="fixed batch of 1"):
        measure_throughput(small_network(batch=1), target, threads=1, batches=(4,))
