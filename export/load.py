"""Measures servers of the Open Inference Protocol: service times one by one, and latencies under a random load."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engines.base import Engine, EngineError
from export.capacity import WARM_UP, Outcome, Service, outcome

SIZES = (1, 2, 4, 8)


def measure_service(engine: Engine, images: np.ndarray, *, rounds: int = 60, local: Engine | None = None) -> Service:
    """Ask an idle server one request after the other; images are uint8 (N, 1, H, W).

    overhead_ms is what the request of one image takes beside running: the difference to `local`, the same runtime
    with as many threads in this process, where it is given; otherwise nothing is split off.
    """
    times = {size: _times_ms(engine, _batch(images, size), rounds) for size in SIZES}
    overhead = 0.0
    if local is not None:
        alone = _times_ms(local, _batch(images, 1), rounds)
        overhead = max(0.0, statistics.median(times[1]) - statistics.median(alone))
    inside = {size: [max(0.1, one - overhead) for one in values] for size, values in times.items()}
    return Service(batch_ms=inside, overhead_ms=overhead)


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
    engine.run(batch)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.run(batch)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _batch(images: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([images] * (size // len(images) + 1))[:size]
