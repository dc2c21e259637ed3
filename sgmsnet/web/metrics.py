"""What Prometheus is told about the server: requests, errors, latency by stage and engine, what waits. Counts only.

Nothing here names an image, an address or a visitor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

Interface = Literal["page", "rest"]
Action = Literal["download", "truth", "compare"]
"""A file that the server made, a mask that was compared, a comparison of engines."""
Reason = Literal["refused", "failed"]
"""Refused: what was sent cannot be used. Failed: the server is to blame."""

_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("sgmsnet_requests", "Images that were sent", ["interface"], registry=self._registry)
        self._errors = Counter(
            "sgmsnet_errors", "Images without a result", ["interface", "reason"], registry=self._registry
        )
        self._stages = Histogram(
            "sgmsnet_stage_seconds",
            "Time of one stage for one image",
            ["stage", "engine"],
            buckets=_STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self._actions = Counter(
            "sgmsnet_actions",
            "Requests for a shown image: download, truth, compare",
            ["action"],
            registry=self._registry,
        )
        self._waiting = Gauge(
            "sgmsnet_waiting", "Requests whose turn has not come", ["interface"], registry=self._registry
        )
        self._in_flight = Gauge(
            "sgmsnet_in_flight", "Images being worked on or waiting for it", ["interface"], registry=self._registry
        )

    @contextmanager
    def request(self, interface: Interface) -> Iterator[None]:
        """Counts one image, and that it is in flight until the block ends."""
        self._requests.labels(interface).inc()
        with self._in_flight.labels(interface).track_inprogress():
            yield

    def error(self, interface: Interface, reason: Reason) -> None:
        """Counts an image that got no result."""
        self._errors.labels(interface, reason).inc()

    def action(self, action: Action) -> None:
        """Counts what is asked for beside the segmentation of an image."""
        self._actions.labels(action).inc()

    def waiting(self, interface: Interface, count: Callable[[], float]) -> None:
        """Whom to ask, whenever Prometheus does, how many wait."""
        self._waiting.labels(interface).set_function(count)

    def observe(self, record: Mapping[str, Any]) -> None:
        """Takes the times by stage from a record of the result schema."""
        for stage, milliseconds in record["timings_ms"].items():
            if milliseconds is not None:
                self._stages.labels(stage, record["engine"]).observe(milliseconds / 1000)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)
