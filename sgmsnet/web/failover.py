"""What happens when an engine fails while the server runs: a time limit, and the next engine in its place.

Decides which engine answers; opening them is the desk's matter, and a mask from values that are not finite is refused
by the pipeline itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

import numpy as np

from engines.base import Engine, EngineError, EngineInfo, EngineUnavailable

log = logging.getLogger(__name__)

RUN_LIMIT_S = 30.0
"""One run takes well under a second anywhere; a runtime that takes this long hangs."""
ASIDE_S = 60.0
"""How long a failed engine is passed over before it is tried again."""

_Answer = TypeVar("_Answer")


class TimedEngine:
    """An engine whose `run` ends, one way or another: with outputs, or with EngineError after the time limit.

    A runtime that hangs cannot be stopped, so while one of its runs is still out, it is not asked again.
    """

    def __init__(self, engine: Engine, *, limit_s: float = RUN_LIMIT_S) -> None:
        self.inner = engine
        self.info: EngineInfo = engine.info
        self._limit_s = limit_s
        self._overdue: list[Future[dict[str, np.ndarray]]] = []
        self._lock = threading.Lock()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """As the engine's own; whatever a runtime raises beside the protocol's errors becomes EngineError."""
        name = self.info.backend
        with self._lock:
            self._overdue = [run for run in self._overdue if not run.done()]
            if self._overdue:
                raise EngineError(f"The engine {name} does not answer; restart the server.")
        out: Future[dict[str, np.ndarray]] = Future()
        # A thread for each run, not a pool: at exit Python waits for the threads of pools, even those that hang.
        threading.Thread(target=self._run, args=(images, out), name=f"run-{name}", daemon=True).start()
        try:
            return out.result(self._limit_s)
        except FutureTimeoutError:
            if out.done():  # the runtime's own error, not ours
                raise EngineError(f"The engine {name} failed (TimeoutError).") from None
            with self._lock:
                self._overdue.append(out)
            raise EngineError(f"The engine {name} did not answer within {self._limit_s:g} s.") from None
        except (EngineError, ValueError):
            raise
        except Exception as error:  # runtimes have errors of their own; which ones is their secret
            log.exception("the engine %s failed", name)
            raise EngineError(f"The engine {name} failed ({type(error).__name__}).") from error

    def close(self) -> None:
        """Close the engine; one that hangs is left alone, since that would hang too."""
        with self._lock:
            hangs = any(not run.done() for run in self._overdue)
        if not hangs:
            self.inner.close()

    def _run(self, images: np.ndarray, out: Future[dict[str, np.ndarray]]) -> None:
        try:
            out.set_result(self.inner.run(images))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            out.set_exception(error)


class Failover:
    """Remembers which engines failed lately, and lets the others answer. Safe to use from several threads."""

    def __init__(self, *, aside_s: float = ASIDE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._aside_s = aside_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, float] = {}

    def answer(self, engines: Iterable[str], ask: Callable[[str], _Answer]) -> _Answer:
        """The first answer of `ask` in the order of `engines`; those that failed lately come last.

        An engine fails by EngineError or EngineUnavailable. Where none is left, the first one's error is raised.
        """
        first: EngineError | EngineUnavailable | None = None
        for engine in sorted(dict.fromkeys(engines), key=self.is_aside):  # sorted() keeps the order among equals
            try:
                return ask(engine)
            except (EngineError, EngineUnavailable) as error:
                self.put_aside(engine)
                log.warning("the engine %s did not answer: %s", engine, type(error).__name__)
                first = first or error
        if first is None:
            raise EngineUnavailable("There is no engine.")
        raise first

    def is_aside(self, engine: str) -> bool:
        """Whether an engine failed lately."""
        with self._lock:
            failed = self._failed.get(engine)
        return failed is not None and self._clock() - failed < self._aside_s

    def put_aside(self, engine: str) -> None:
        """An engine has failed."""
        with self._lock:
            self._failed[engine] = self._clock()

    def take_back(self, engine: str) -> None:
        """An engine has shown that it runs."""
        with self._lock:
            self._failed.pop(engine, None)
