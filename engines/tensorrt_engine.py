"""TensorRT and TensorRT for RTX: the plan in engines/built, through the named-tensor API of 8.6 to 11; no torch.

It has not run on hardware yet: what holds is what tests/unit/test_tensorrt_engine*.py show with fakes of TensorRT and
CUDA. Not here: the calls themselves (tensorrt_session.py), building plans (`python -m export tensorrt`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines import manifest
from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.manifest import BUILT, ManifestError
from engines.plans import MODULES, FittingPlan, Runtime, first_plan
from engines.tensorrt_check import check_plan
from engines.tensorrt_session import Session
from engines.verdicts import refuse_failed
from sgmsnet.checkpoint import ModelFiles

_log = logging.getLogger(__name__)


class TensorRtEngine:
    """A plan that one thread owns: CUDA's context, stream and buffers belong to it, and other threads queue for it."""

    info: EngineInfo

    def __init__(
        self,
        model: ModelFiles,
        *,
        runtime: Runtime,
        precision: str | None = None,
        built: Path = BUILT,
        cuda_graph: bool = True,
        unverified: bool = False,
    ) -> None:
        """Open the first plan that fits model and machine; raises EngineUnavailable, with the reasons, without one.

        cuda_graph captures the run of each batch size once and repeats it as a whole; where that fails, runs go
        without, and info.notes says so. `unverified` opens a plan that failed verification, to verify it again.
        """
        started = time.perf_counter()

        def open_plan(found: FittingPlan) -> tuple[_Owner, EngineInfo]:
            plan, info = _check(found, model, runtime)
            if not unverified:
                refuse_failed(info, built=built)
            return _Owner(lambda: Session(MODULES[runtime], plan, found.manifest, cuda_graph=cuda_graph)), info

        # Asks CUDA before any TensorRT.
        self._owner, info = first_plan(
            model, runtime, open_plan, precision=precision, built=built, unverified=unverified
        )
        self.info = replace(info, notes=self._owner.notes, load_ms=(time.perf_counter() - started) * 1e3)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        return self._owner.run(images)

    def close(self) -> None:
        """Free plan, stream and buffers after the runs that wait; a second call does nothing."""
        self._owner.close()


def _check(found: FittingPlan, model: ModelFiles, runtime: Runtime) -> tuple[Path, EngineInfo]:
    """The plan's file, which TensorRT opens here, and what is known of it; raises ManifestError for any other."""
    made = found.manifest
    plan = manifest.check_artefact(found.folder, made)
    try:
        version = check_plan(MODULES[runtime], plan, built_by=made.runtime_version)
    except EngineUnavailable as error:
        raise ManifestError(str(error)) from error
    manifest.check_version(made, version)
    return plan, EngineInfo(
        backend=runtime,
        precision=made.precision,
        device=found.gpu.name,
        height=model.config.height,
        width=model.config.width,
        classes=model.config.classes,
        outputs=tuple(name for name in model.config.outputs if name in made.outputs),
        model=model.name,
        model_sha256=model.sha256,
        runtime_version=version,
        load_ms=0.0,  # known when it is open
    )


_FOREIGN = (AttributeError, TypeError, ValueError)
"""What a version whose API differs from those of 8.6 to 11 raises; another engine answers then."""


class _Owner:
    """The thread that makes a session, runs it for others one after the other, and frees it."""

    def __init__(self, make: Callable[[], Session]) -> None:
        self._jobs: queue.SimpleQueue[tuple[np.ndarray, Future[dict[str, np.ndarray]]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        opened: Future[tuple[str, ...]] = Future()
        self._thread = threading.Thread(target=self._work, args=(make, opened), name="tensorrt", daemon=True)
        self._thread.start()
        try:
            self.notes = opened.result()
        except (EngineError, ImportError, OSError, RuntimeError) as error:
            raise EngineUnavailable(str(error)) from error
        except _FOREIGN as error:
            _log.info("TensorRT could not be opened", exc_info=error)  # the place in our calls that it did not take
            raise EngineUnavailable(f"this TensorRT takes other calls than 8.6 to 11 do: {error}") from error

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        done: Future[dict[str, np.ndarray]] = Future()
        with self._lock:
            if self._closed:
                raise EngineError("the TensorRT engine is closed")
            self._jobs.put((images, done))
        try:
            return done.result()
        except EngineError:
            raise
        except (RuntimeError, OSError, *_FOREIGN) as error:
            raise EngineError(f"TensorRT failed: {error}") from error

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _work(self, make: Callable[[], Session], opened: Future[tuple[str, ...]]) -> None:
        try:
            session = make()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            opened.set_exception(error)
            return
        opened.set_result(session.notes)
        while (job := self._jobs.get()) is not None:
            images, done = job
            try:
                done.set_result(session.run(images))
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                done.set_exception(error)
        session.close()
