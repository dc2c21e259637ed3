"""TensorRT and TensorRT for RTX: the plan in engines/built, through the named-tensor API of 8.6 to 11; no torch.

It has not run on hardware yet: what holds is what tests/unit/test_tensorrt_engine.py shows with fakes of TensorRT and
CUDA. Not here: building plans (`python -m export tensorrt`).
"""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from engines import cuda, manifest
from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.manifest import BUILT, Manifest, ManifestError
from engines.plans import MODULES, Runtime, build_command, fitting_plan
from engines.tensorrt_check import check_plan
from sgmsnet.checkpoint import ModelFiles

_INPUT = "images"


class TensorRtEngine:
    """A plan that one thread owns: CUDA's context, stream and buffers belong to it, and other threads queue for it."""

    info: EngineInfo

    def __init__(
        self, model: ModelFiles, *, runtime: Runtime, precision: str | None = None, built: Path = BUILT
    ) -> None:
        """Open the plan; raises EngineUnavailable, with the reason, when there is none that fits model and machine."""
        started = time.perf_counter()
        found = fitting_plan(model, runtime, precision=precision, built=built)  # asks CUDA before any TensorRT
        made = found.manifest
        try:
            plan = manifest.check_artefact(found.folder, made)
            version = check_plan(MODULES[runtime], plan)
            manifest.check_version(made, version)
        except ManifestError as error:
            raise EngineUnavailable(f"{error}; `{build_command(runtime)}` builds it again") from error
        self._owner = _Owner(lambda: _Session(MODULES[runtime], plan, made))
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
        )

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        return self._owner.run(images)

    def close(self) -> None:
        """Free plan, stream and buffers after the runs that wait; a second call does nothing."""
        self._owner.close()


class _Session:
    """Engine, context, stream and buffers; made, used and freed in one thread."""

    def __init__(self, module: str, plan: Path, made: Manifest) -> None:
        trt = importlib.import_module(module)
        self._cuda: cuda.Cuda = cuda.CudaPython()
        try:
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive the engine
            self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
            if self._engine is None:
                raise EngineUnavailable(f"{module} opened {plan} in a process of its own, and not in this one")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineUnavailable(f"the GPU has too little memory to run {plan}")
            self._batch_max = made.batch_max
            self._check_tensors(trt, made)
            self._shapes = {name: tuple(shape[1:]) for name, shape in made.outputs.items()}
            self._host: dict[str, np.ndarray] = {}
            self._address: dict[str, int] = {}
            self._reserve(_INPUT, made.inputs[_INPUT][1:], np.uint8)
            for name, shape in self._shapes.items():
                self._reserve(name, shape, np.float32)
            (height, width) = made.inputs[_INPUT][2:]
            self.run(np.zeros((1, 1, height, width), np.uint8))  # the first run is slow
        except BaseException:
            self.close()
            raise

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (N, 1, H, W) of any N; larger batches than the plan's go in parts."""
        size = self._batch_max
        parts = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._shapes}

    def close(self) -> None:
        # In this order: the context uses the engine, the engine the runtime.
        self._context = self._engine = self._runtime = None
        self._cuda.free()

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        batch = len(images)
        if not self._context.set_input_shape(_INPUT, images.shape):
            raise EngineError(f"the plan does not take images of shape {images.shape}")
        self._host[_INPUT][:batch] = images
        self._cuda.to_device(self._address[_INPUT], self._host[_INPUT][:batch])
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT could not start the run")
        for name in self._shapes:
            self._cuda.to_host(self._host[name][:batch], self._address[name])
        self._cuda.wait()
        return {name: self._host[name][:batch].copy() for name in self._shapes}  # the next run writes there

    def _check_tensors(self, trt: Any, made: Manifest) -> None:
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        if names != {_INPUT, *made.outputs} or _INPUT not in made.inputs:
            raise EngineUnavailable(f"the plan's tensors are not the manifest's: {', '.join(sorted(names))}")
        wanted = {_INPUT: trt.uint8} | dict.fromkeys(made.outputs, trt.float32)
        for name, dtype in wanted.items():
            if self._engine.get_tensor_dtype(name) != dtype:
                raise EngineUnavailable(f"the plan's tensor {name} is not {dtype}")

    def _reserve(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Memory for the largest batch, on the host and the device; its address never changes."""
        full = (self._batch_max, *shape)
        size = int(np.prod(full)) * np.dtype(dtype).itemsize
        self._host[name] = self._cuda.pinned(size).view(dtype).reshape(full)
        self._address[name] = self._cuda.allocate(size)
        self._context.set_tensor_address(name, self._address[name])


class _Owner:
    """The thread that makes a session, runs it for others one after the other, and frees it."""

    def __init__(self, make: Callable[[], _Session]) -> None:
        self._jobs: queue.SimpleQueue[tuple[np.ndarray, Future[dict[str, np.ndarray]]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(make, opened), name="tensorrt", daemon=True)
        self._thread.start()
        try:
            opened.result()
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

    def _work(self, make: Callable[[], _Session], opened: Future[None]) -> None:
        try:
            session = make()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            opened.set_exception(error)
            return
        opened.set_result(None)
        while (job := self._jobs.get()) is not None:
            images, done = job
            try:
                done.set_result(session.run(images))
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                done.set_exception(error)
        session.close()
