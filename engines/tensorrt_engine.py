"""TensorRT and TensorRT for RTX: the plan in engines/built, through the named-tensor API of 8.6 to 11; no torch.

It has not run on hardware yet: what holds is what tests/unit/test_tensorrt_engine.py shows with fakes of TensorRT and
CUDA. Not here: the calls themselves (tensorrt_session.py), building plans (`python -m export tensorrt`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from engines import manifest
from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.manifest import BUILT, ManifestError
from engines.plans import MODULES, Runtime, build_command, fitting_plan
from engines.tensorrt_check import check_plan
from engines.tensorrt_session import Session
from sgmsnet.checkpoint import ModelFiles


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
    ) -> None:
        """Open the plan; raises EngineUnavailable, with the reason, when there is none that fits model and machine.

        cuda_graph captures the run of each batch size once and repeats it as a whole; where that fails, runs go
        without, and info.notes says so.
        """
        started = time.perf_counter()
        found = fitting_plan(model, runtime, precision=precision, built=built)  # asks CUDA before any TensorRT
        made = found.manifest
        try:
            plan = manifest.check_artefact(found.folder, made)
            version = check_plan(MODULES[runtime], plan)
            manifest.check_version(made, version)
        except (ManifestError, EngineUnavailable) as error:
            raise EngineUnavailable(f"{error}; `{build_command(runtime)}` builds it again") from error
        self._owner = _Owner(lambda: Session(MODULES[runtime], plan, made, cuda_graph=cuda_graph))
        self.info = EngineInfo(
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
            load_ms=(time.perf_counter() - started) * 1e3,
            notes=self._owner.notes,
        )

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        return self._owner.run(images)

    def close(self) -> None:
        """Free plan, stream and buffers after the runs that wait; a second call does nothing."""
        self._owner.close()


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
        except (RuntimeError, OSError) as error:
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
