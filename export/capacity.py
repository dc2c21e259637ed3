"""How many servers a rate of requests needs: a queueing simulation (SimPy) fed with measured service times.

Requests arrive at random (Poisson); the balancer gives each to the server with the fewest; a server puts requests
together that wait, as Triton does, and runs one batch at a time. Not here: taking the measurements (load.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from export import ExportError

LARGEST = 1024
WARM_UP = 0.1
"""Part of the requests that comes before the ones that count."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What was measured of one server that has nothing else to do."""

    batch_ms: Mapping[int, Sequence[float]]
    """Times of a request by its number of images, as the server sees them."""
    overhead_ms: float
    """What a request takes beside: the network, encoding and decoding."""

    def __post_init__(self) -> None:
        if not self.batch_ms or 1 not in self.batch_ms or not all(self.batch_ms.values()):
            raise ExportError("service times are needed for single images, and for any other batch that is named")

    @cached_property
    def _sorted(self) -> tuple[list[int], list[list[float]]]:
        sizes = sorted(self.batch_ms)
        return sizes, [sorted(self.batch_ms[size]) for size in sizes]

    def seconds(self, batch: int, luck: float) -> float:
        """The time of a batch: the quantile `luck` in [0, 1], between the sizes that were measured."""
        sizes, values = self._sorted
        at = [times[min(int(luck * len(times)), len(times) - 1)] for times in values]
        if batch > sizes[-1]:  # in proportion beyond the largest
            return at[-1] * batch / sizes[-1] / 1e3
        return float(np.interp(batch, sizes, at)) / 1e3


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Servers that are alike."""

    servers: int
    batch_max: int = 8
    queue_delay_ms: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Latencies of a simulated or measured load; `rate` is what was answered a second."""

    servers: int
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_batch: float | None = None
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def poisson(rate: float, requests: int, *, seed: int = 0) -> np.ndarray:
    """Moments in seconds at which requests come, `rate` a second on average; float64 (requests,)."""
    moments: np.ndarray = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))
    return moments


def simulate(
    service: Service,
    fleet: Fleet,
    *,
    rate: float,
    requests: int = 20_000,
    moments: np.ndarray | None = None,
    seed: int = 0,
) -> Outcome:
    """Run a fleet under `rate` requests a second, or under requests at given moments.

    Raises ExportError without SimPy.
    """
    try:
        import simpy
    except ImportError as error:
        raise ExportError("the simulation needs the package simpy; requirements-dev.txt has it") from error
    world: Any = simpy.Environment()
    servers = [_Server(world, service, fleet, np.random.default_rng([seed, k + 1])) for k in range(fleet.servers)]
    latencies_ms: list[float] = []
    moments = poisson(rate, requests, seed=seed) if moments is None else moments
    ends: list[float] = []

    def one() -> Generator[Any, Any, None]:
        arrived = world.now
        server = min(servers, key=lambda candidate: candidate.load)
        yield server.take()
        yield world.timeout(service.overhead_ms / 1e3)
        latencies_ms.append((world.now - arrived) * 1e3)
        ends.append(world.now)

    def arrivals() -> Generator[Any, Any, None]:
        for moment in moments:
            yield world.timeout(max(0.0, float(moment) - world.now))
            world.process(one())

    world.process(arrivals())
    world.run()
    counted = latencies_ms[int(len(latencies_ms) * WARM_UP) :]
    batches = [size for server in servers for size in server.batches]
    return outcome(counted, servers=fleet.servers, seconds=ends[-1], answered=len(ends), batches=batches)


def needed(service: Service, *, rate: float, p95_ms: float, fleet: Fleet, requests: int = 20_000) -> list[Outcome]:
    """Outcomes for 1, 2, 4... servers and then between, the last of which is the smallest fleet that keeps p95_ms.

    Raises ExportError when the time is shorter than one request takes, so that no fleet could keep it.
    """
    alone = simulate(service, _of(fleet, 1), rate=1e-3, requests=200)
    if alone.p95_ms > p95_ms:
        raise ExportError(
            f"one request alone takes {alone.p95_ms:.0f} ms in 95 % of cases; {p95_ms:g} ms cannot be kept"
        )
    tried: dict[int, Outcome] = {}

    def keeps(servers: int) -> bool:
        tried[servers] = simulate(service, _of(fleet, servers), rate=rate, requests=requests)
        return tried[servers].p95_ms <= p95_ms

    high = 1
    while not keeps(high):
        high *= 2
        if high > LARGEST:
            raise ExportError(f"more than {LARGEST} servers would be needed")
    low = high // 2  # does not keep it, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return [*(tried[servers] for servers in sorted(tried) if servers != high), tried[high]]


def outcome(
    latencies_ms: Sequence[float],
    *,
    servers: int,
    seconds: float,
    answered: int,
    batches: Sequence[int] = (),
    failed: int = 0,
) -> Outcome:
    """Percentiles of latencies; raises ExportError when nothing was answered."""
    if not latencies_ms:
        raise ExportError("no request was answered")
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99])
    return Outcome(
        servers=servers,
        rate=answered / seconds,
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        mean_batch=float(np.mean(batches)) if batches else None,
        failed=failed,
    )


class _Server:
    """A queue and one instance of the model."""

    def __init__(self, world: Any, service: Service, fleet: Fleet, chance: np.random.Generator) -> None:
        self._world, self._service, self._fleet, self._chance = world, service, fleet, chance
        self._queue: deque[tuple[float, Any]] = deque()
        self._came: Any = world.event()
        self._busy = 0
        self.batches: list[int] = []
        world.process(self._work())

    @property
    def load(self) -> int:
        """Requests that wait or are being run."""
        return len(self._queue) + self._busy

    def take(self) -> Any:
        """An event that comes when a new request is answered."""
        answered = self._world.event()
        self._queue.append((self._world.now, answered))
        if not self._came.triggered:
            self._came.succeed()
        return answered

    def _work(self) -> Generator[Any, Any, None]:
        while True:
            while not self._queue:
                self._came = self._world.event()
                yield self._came
            yield from self._gather()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._fleet.batch_max))]
            self._busy = len(batch)
            self.batches.append(len(batch))
            yield self._world.timeout(self._service.seconds(len(batch), self._chance.random()))
            self._busy = 0
            for _, answered in batch:
                answered.succeed()

    def _gather(self) -> Generator[Any, Any, None]:
        """Wait until the batch is full or its oldest request has waited as long as it may."""
        until = self._queue[0][0] + self._fleet.queue_delay_ms / 1e3
        while len(self._queue) < self._fleet.batch_max and self._world.now < until:
            self._came = self._world.event()
            yield self._came | self._world.timeout(until - self._world.now)


def _of(fleet: Fleet, servers: int) -> Fleet:
    return Fleet(servers=servers, batch_max=fleet.batch_max, queue_delay_ms=fleet.queue_delay_ms)
