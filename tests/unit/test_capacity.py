"""The simulation agrees with queueing theory where that has formulas, and with a measured load of stand-ins."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from engines.base import Engine
from engines.server_address import parse_url
from engines.triton_engine import TritonEngine
from export import ExportError, load
from export.capacity import Fleet, Service, needed, poisson, simulate
from sgmsnet.checkpoint import find
from tests.fakes import FakeEngine, info_with
from tests.oip_server import Misbehaviour, serving

pytest.importorskip("simpy")


def exponential(mean_ms: float) -> Service:
    """Service times as in the M/M/1 queue."""
    quantiles = (np.arange(2000) + 0.5) / 2000
    return Service(batch_ms={1: list(-mean_ms * np.log(1 - quantiles))}, overhead_ms=0)


def test_one_server_without_batching_is_the_m_m_1_queue() -> None:
    # Time in the system is exponential with the rate mu - lambda: Kleinrock, "Queueing Systems" I, 1975, 3.2.
    found = simulate(exponential(10), Fleet(servers=1, batch_max=1, queue_delay_ms=0), rate=60, requests=40_000)
    assert found.rate == pytest.approx(60, rel=0.03)
    assert found.p50_ms == pytest.approx(1000 * math.log(2) / (100 - 60), rel=0.08)
    assert found.p95_ms == pytest.approx(1000 * math.log(20) / (100 - 60), rel=0.12)


def test_an_idle_server_takes_its_service_time_overhead_and_the_queue_s_delay() -> None:
    service = Service(batch_ms={1: [20.0], 8: [80.0]}, overhead_ms=3)
    found = simulate(service, Fleet(servers=1, batch_max=8, queue_delay_ms=5), rate=0.01, requests=100)
    assert found.p95_ms == pytest.approx(28, abs=0.01)
    assert found.mean_batch == 1


def test_batches_carry_a_rate_that_single_requests_could_not() -> None:
    service = Service(batch_ms={1: [20.0], 8: [40.0]}, overhead_ms=0)
    found = simulate(service, Fleet(servers=1, batch_max=8), rate=120, requests=4000)
    assert found.rate == pytest.approx(120, rel=0.06)
    assert found.mean_batch is not None
    assert found.mean_batch > 2
    assert found.p95_ms < 120


def test_times_between_and_beyond_the_measured_batches() -> None:
    service = Service(batch_ms={1: [10.0], 4: [40.0]}, overhead_ms=0)
    assert [service.seconds(size, 0.5) for size in (1, 2, 4, 8)] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    with pytest.raises(ExportError):
        Service(batch_ms={2: [1.0]}, overhead_ms=0)


@pytest.mark.parametrize("rate", [30, 250])
def test_the_fleet_is_the_smallest_that_keeps_the_time(rate: float) -> None:
    service = Service(batch_ms={1: [20.0]}, overhead_ms=2)
    fleet = Fleet(servers=1, batch_max=1, queue_delay_ms=0)
    tried = needed(service, rate=rate, p95_ms=60, fleet=fleet, requests=4000)
    best = tried[-1]
    assert best.p95_ms <= 60
    assert best.servers * 50 > rate
    if best.servers > 1:
        [smaller] = [found for found in tried if found.servers == best.servers - 1]
        assert smaller.p95_ms > 60
    with pytest.raises(ExportError, match="cannot be kept"):
        needed(service, rate=rate, p95_ms=10, fleet=fleet)


class Sleeper(FakeEngine):
    """A server that runs one request at a time, 20 ms each."""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self._lock:
            time.sleep(0.02 * len(images))
        return {"logits": np.zeros((len(images), 2, *images.shape[2:]), np.float32)}


@pytest.mark.parametrize("counted", [True, False])
def test_client_and_network_keep_no_server_busy(tiny_model: Path, counted: bool) -> None:
    files = find(tiny_model)
    images = np.zeros((1, 1, 64, 64), np.uint8)
    behind = Sleeper(info_with(model=files.name, model_sha256=files.sha256, height=64, width=64))
    with serving(behind, how=Misbehaviour(delay_s=0.03, statistics=counted), batch_max=8) as url:
        engine = TritonEngine(files, address=parse_url(url))
        service = load.measure_service(engine, images, rounds=3, spent=engine.spent)
        engine.close()
    # Sleeps may last longer, never shorter: 30 ms before the run and 20 in it.
    if counted:
        assert service.overhead_ms >= 30
        assert np.mean(service.batch_ms[8]) >= 160
        assert np.mean(service.batch_ms[1]) >= 20
    else:
        assert service.overhead_ms == 0
        assert min(service.batch_ms[1]) >= 50


@pytest.mark.parametrize("servers", [1, 2])
def test_the_simulation_is_near_a_measured_load(servers: int) -> None:
    images = np.zeros((2, 1, 224, 224), np.uint8)
    engines: list[Engine] = [Sleeper() for _ in range(servers)]
    service = load.measure_service(engines[0], images, rounds=5)
    assert service.seconds(1, 0.5) == pytest.approx(0.02, rel=0.3)
    moments = poisson(25 * servers, 60 * servers, seed=1)
    measured = load.apply_load(engines, images, moments=moments)
    fleet = Fleet(servers=servers, batch_max=1, queue_delay_ms=0)
    simulated = simulate(service, fleet, rate=25 * servers, moments=moments)
    assert measured.failed == 0
    assert measured.p50_ms == pytest.approx(simulated.p50_ms, rel=0.5)
    assert measured.p95_ms == pytest.approx(simulated.p95_ms, rel=0.6)
