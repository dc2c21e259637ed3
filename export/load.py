"""Measures servers of the Open Inference Protocol: service times one by one, and latencies under a random load."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engines.base import Engine, EngineError, Spent
from export.capacity import WARM_UP, Outcome, Service, outcome

SIZES = (1, 2, 4, 8)


def measure_service(
    engine: Engine, images: np.ndarray, *, rounds: int = 60, spent: Callable[[], Spent | None] = lambda: None
) -> Service:
    """Ask an idle server one request after the other; images are uint8 (N, 1, H, W).

    `spent` gives what the server itself has counted. Then a service time is what the server computed, and overhead_ms
    the rest of a request without its time in the queue: client and network, which keep no server busy. Without it,
    or where others ask the server too, nothing is split off and overhead_ms is 0.
    """
    batch_ms: dict[int, list[float]] = {}
    overhead_ms = 0.0
    for size in SIZES:
        batch = _batch(images, size)
        engine.run(batch)
        before = spent()
        batch_ms[size] = _times_ms(engine, batch, rounds)
        after = spent()
        if before and after and after.requests - before.requests == rounds:
            compute_ms, queue_ms = (
                (getattr(after, name) - getattr(before, name)) / rounds for name in ("compute_ms", "queue_ms")
            )
            beside_ms = statistics.mean(batch_ms[size]) - compute_ms
            batch_ms[size] = [max(0.1, one - beside_ms) for one in batch_ms[size]]
            if size == 1:
                overhead_ms = max(0.0, beside_ms - queue_ms)
    return Service(batch_ms=batch_ms, overhead_ms=overhead_ms)


def apply_load(engines: Sequence[Engine], images: np.ndarray, *, moments: np.ndarray, threads: int = 64) -> Outcome:
    """Send single images at the given moments in seconds, each to the server with the fewest requests.

    A latency counts from the moment at which the request was due, so that a client that lags behind is not kind
    to a server that is slow.
    """
    lock = threading.Lock()
    open_requests = [0] * len(engines)
    latencies_ms: list[tuple[int, float]] = []
    failed = 0
    start = time.perf_counter() + 0.2

    def ask(number: int, due: float) -> None:
        nonlocal failed
        with lock:
            place = min(range(len(engines)), key=lambda k: open_requests[k])
            open_requests[place] += 1
        try:
            engines[place].run(images[number % len(images)][None])
            with lock:
                latencies_ms.append((number, (time.perf_counter() - start - due) * 1e3))
        except EngineError:
            with lock:
                failed += 1
        finally:
            with lock:
                open_requests[place] -= 1

    with ThreadPoolExecutor(threads) as pool:
        for number, due in enumerate(moments.tolist()):
            time.sleep(max(0.0, start + due - time.perf_counter()))
            pool.submit(ask, number, due)
    took = time.perf_counter() - start
    counted = [latency for number, latency in latencies_ms if number >= len(moments) * WARM_UP]
    return outcome(counted, servers=len(engines), seconds=took, answered=len(latencies_ms), failed=failed)


def _times_ms(engine: Engine, batch: np.ndarray, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.run(batch)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _batch(images: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([images] * (size // len(images) + 1))[:size]
