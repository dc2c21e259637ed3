"""An open plan: its contexts, stream, buffers and CUDA graphs; made, used and freed in one thread.

One order of calls for TensorRT 8.6, 10, 11 and TensorRT for RTX. All memory on the GPU, the contexts' scratch memory
too, is allocated through cuda-python. Not here: threads and choosing the plan (tensorrt_engine.py).
"""

from __future__ import annotations

import importlib
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines import cuda
from engines.base import EngineError, EngineUnavailable
from engines.manifest import Manifest

INPUT = "images"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Batch:
    """What runs one batch size. A graph repeats the calls of one context in one shape, so each size has its own."""

    context: Any
    graph: Any | None


class Session:
    """Runs a plan; `notes` says what a person should know of how, as that it runs without CUDA graphs."""

    notes: tuple[str, ...] = ()

    def __init__(self, module: str, plan: Path, made: Manifest, *, cuda_graph: bool = True) -> None:
        """Open the plan and run it once; raises EngineUnavailable or EngineError."""
        self._trt = importlib.import_module(module)
        self._captures = cuda_graph
        self._batches: dict[int, _Batch] = {}
        self._runtime: Any = None
        self._engine: Any = None
        self._kernels: Any = None
        self._kernels_file = plan.with_suffix(".kernels")
        self._cuda: cuda.Cuda = cuda.CudaPython()
        try:
            self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))  # must outlive the engine
            self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
            if self._engine is None:
                raise EngineUnavailable(f"{module} opened {plan} in a process of its own, and not in this one")
            self._check_tensors(made)
            self._reserve(made)
            (height, width) = made.inputs[INPUT][2:]
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
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        # In this order: graphs and contexts use the engine, the engine uses the runtime, all use the memory.
        self._cuda.forget_graphs()
        self._batches.clear()
        self._kernels = self._engine = self._runtime = None
        self._cuda.free()

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        batch = len(images)
        self._host[INPUT][:batch] = images
        ready = self._batches.get(batch)
        if ready is None:
            self._batches[batch] = self._first_run(batch)
        elif ready.graph is None:
            self._enqueue(ready.context, batch)
            self._cuda.wait()
        else:
            self._cuda.launch(ready.graph)
            self._cuda.wait()
        return {name: self._host[name][:batch].copy() for name in self._outputs}  # the next run writes there

    def _first_run(self, batch: int) -> _Batch:
        """Run this batch size without a graph, in which TensorRT sets itself up for it, and capture it afterwards."""
        context = self._new_context()
        shape = self._host[INPUT][:batch].shape
        if not context.set_input_shape(INPUT, shape):
            raise EngineError(f"the plan does not take images of shape {shape}")
        for name, address in self._address.items():
            context.set_tensor_address(name, address)
        self._enqueue(context, batch)
        self._cuda.wait()
        self._keep_kernels()
        return _Batch(context, self._capture(context, batch))

    def _enqueue(self, context: Any, batch: int) -> None:
        """Put copy, run and copies back on the stream; every address stays the same for as long as this lives."""
        self._cuda.to_device(self._address[INPUT], self._host[INPUT][:batch])
        if not context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT could not start the run")
        for name in self._outputs:
            self._cuda.to_host(self._host[name][:batch], self._address[name])

    def _capture(self, context: Any, batch: int) -> Any | None:
        if not self._captures:
            return None
        try:
            # Only TensorRT for RTX has this question: some of its plans cannot be captured.
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._cuda.stream):
                raise EngineError("the plan cannot be captured")
            return self._cuda.capture(lambda: self._enqueue(context, batch))
        except RuntimeError as error:
            self._captures = False  # what failed once is not tried for every other batch size
            self.notes = (f"runs without CUDA graphs, since capturing one failed: {error}",)
            _log.warning("TensorRT %s (batch %d)", self.notes[0], batch)
            return None

    def _new_context(self) -> Any:
        """A context whose scratch memory is this session's, shared: runs follow each other on one stream."""
        trt, engine = self._trt, self._engine
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):  # TensorRT for RTX
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            # Eager: a graph would keep the general kernels that it was captured with.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._take_kernels(config)
            context = engine.create_execution_context(config)
        elif hasattr(trt, "ExecutionContextAllocationStrategy"):  # from 10.0 on
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise EngineUnavailable("the GPU has too little memory to run this plan")
        if self._scratch and hasattr(context, "set_device_memory"):
            context.set_device_memory(self._scratch, self._scratch_size)
        elif self._scratch:
            context.device_memory = self._scratch
        return context

    def _take_kernels(self, config: Any) -> None:
        """TensorRT for RTX compiles kernels for each batch size on this GPU: those of earlier processes are kept."""
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            with suppress(OSError):
                self._kernels.deserialize(self._kernels_file.read_bytes())  # refuses what is of another GPU or driver
        config.set_runtime_cache(self._kernels)

    def _keep_kernels(self) -> None:
        if self._kernels is not None:
            part = self._kernels_file.with_name(f"{self._kernels_file.name}.{os.getpid()}")
            try:
                part.write_bytes(bytes(self._kernels.serialize()))
                part.replace(self._kernels_file)
            except OSError:  # a folder that may not be written to: compiled again next time
                with suppress(OSError):
                    part.unlink()

    def _check_tensors(self, made: Manifest) -> None:
        engine = self._engine
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != {INPUT, *made.outputs} or INPUT not in made.inputs:
            raise EngineUnavailable(f"the plan's tensors are not the manifest's: {', '.join(sorted(names))}")
        wanted = {INPUT: self._trt.uint8} | dict.fromkeys(made.outputs, self._trt.float32)
        for name, dtype in wanted.items():
            if engine.get_tensor_dtype(name) != dtype:
                raise EngineUnavailable(f"the plan's tensor {name} is not {dtype}")

    def _reserve(self, made: Manifest) -> None:
        """Memory for the largest batch, on the host and the device, and scratch memory for the plan."""
        self._batch_max = made.batch_max
        self._outputs = tuple(made.outputs)
        self._host: dict[str, np.ndarray] = {}
        self._address: dict[str, int] = {}
        for name, shape in {INPUT: made.inputs[INPUT], **made.outputs}.items():
            dtype = np.dtype(np.uint8 if name == INPUT else np.float32)
            full = (self._batch_max, *shape[1:])
            size = int(np.prod(full)) * dtype.itemsize
            self._host[name] = self._cuda.pinned(size).view(dtype).reshape(full)
            self._address[name] = self._cuda.allocate(size)
        of_engine = "device_memory_size_v2" if hasattr(self._engine, "device_memory_size_v2") else "device_memory_size"
        self._scratch_size = int(getattr(self._engine, of_engine))
        self._scratch = self._cuda.allocate(self._scratch_size) if self._scratch_size else 0
