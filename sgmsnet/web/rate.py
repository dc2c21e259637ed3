"""How often a client may ask: one bucket of tokens for each, refilled steadily. Knows no HTTP."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_CLIENTS_AT_MOST = 20_000


class Rate:
    """`per_minute` requests a minute and client, of which `burst` may come at once. Safe in several threads."""

    def __init__(self, per_minute: float, *, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take one token: 0.0, or the seconds to wait where there is none."""
        now = self._clock()
        with self._lock:
            tokens, last = self._buckets.pop(client, (self._burst, now))
            tokens = min(self._burst, tokens + (now - last) * self._per_s)
            wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
            self._buckets[client] = (tokens if wait_s else tokens - 1, now)
            while len(self._buckets) > _CLIENTS_AT_MOST:  # the one that has been quiet for longest has a full bucket
                self._buckets.popitem(last=False)
        return wait_s
