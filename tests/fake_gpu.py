"""TensorRT's runtime of a version, on a GPU whose memory is the host's; every call is recorded, with its thread."""

from __future__ import annotations

import threading
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import SHARED_PLAN

SHAPES = {"logits": (2, 64, 64), "embedding": (32,)}
SCRATCH = 4096
REFUSES = """
class Runtime:
    def __init__(self, logger): ...
    def deserialize_cuda_engine(self, plan): return None
"""
OPENS = REFUSES.replace("None", "1")


class Allocation(IntEnum):
    """ExecutionContextAllocationStrategy."""

    STATIC = 0
    USER_MANAGED = 2


class FakeGpu:
    """The module tensorrt of a version ("8.6", "10.0", "10.3", "11.0", "rtx") in `module`, cuda-python in `cuda`.

    A run adds the mean grey of each image to logits (0, 0, 0) and takes 1 to 32 as its embedding.
    """

    def __init__(
        self,
        *,
        version: str = "10.3",
        readable: bool = True,
        capturable: bool = True,
        outputs: tuple[str, ...] = tuple(SHAPES),
    ):
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.fails = False
        self.batches: list[int] = []
        self.cuda = FakeCuda(self.record)
        self.module = _module(self, version, readable=readable, capturable=capturable, outputs=outputs)

    def record(self, call: str) -> None:
        """Write a call down, and the thread that it came from."""
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)

    def kernel(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        """What the plan does on the GPU."""
        self.batches.append(shape[0])

        def view(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return np.frombuffer(self.cuda.at(addresses[name], size), dtype).reshape(shape)

        logits = view("logits", (shape[0], *SHAPES["logits"]), np.float32)
        logits[:] = 0
        logits[:, 0, 0, 0] = view("images", shape, np.uint8).mean(axis=(1, 2, 3))
        view("embedding", (shape[0], 32), np.float32)[:] = np.arange(1, 33)


def _module(gpu: FakeGpu, version: str, *, readable: bool, capturable: bool, outputs: tuple[str, ...]) -> Any:
    is_rtx, major = version == "rtx", 11 if version == "rtx" else int(version.split(".")[0])
    has_v2 = version not in ("8.6", "10.0")

    class Context:
        has_profile = True

        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.shape: tuple[int, ...] = ()

        def set_tensor_address(self, name: str, address: int) -> bool:
            gpu.record(f"address {name}")
            self.addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            gpu.record(f"shape {name} {tuple(shape)}")
            self.shape = tuple(shape)
            return self.has_profile

        def execute_async_v3(self, stream: int) -> bool:
            gpu.record(f"execute {stream}")
            shape, addresses = self.shape, dict(self.addresses)
            gpu.cuda.on_stream(lambda: gpu.kernel(shape, addresses))
            return not gpu.fails

    class OldContext(Context):
        @property
        def device_memory(self) -> int:
            return 0

        @device_memory.setter
        def device_memory(self, address: int) -> None:
            assert address in gpu.cuda.alive
            gpu.record("scratch memory")

    class NewContext(Context):
        def set_device_memory(self, address: int, size: int) -> None:
            assert (address in gpu.cuda.alive, size) == (True, SCRATCH)
            gpu.record(f"scratch memory {size}")

    class RtxContext(NewContext):
        def is_stream_capturable(self, stream: int) -> bool:
            gpu.record("capturable?")
            return capturable

    class PlanEngine:
        names = ("images", *outputs)
        num_io_tensors = len(names)

        def __init__(self, *, shares_profile: bool) -> None:
            self.shares_profile = shares_profile
            self.contexts = 0

        def get_tensor_name(self, index: int) -> str:
            return self.names[index]

        def get_tensor_dtype(self, name: str) -> str:
            return "uint8" if name == "images" else "float32"

        if major == 8:

            def create_execution_context_without_device_memory(self) -> Context:
                gpu.record("context without memory")
                context = OldContext()
                context.has_profile = self.contexts == 0 or self.shares_profile  # 8.6 gives it to the first alone
                self.contexts += 1
                return context
        else:

            def create_execution_context(self, strategy: Any) -> Context:
                if is_rtx:
                    gpu.record(f"context of config {strategy.memory.name} {strategy.kernels}")
                    strategy = strategy.memory
                else:
                    gpu.record(f"context {strategy.name}")
                assert strategy == Allocation.USER_MANAGED
                return RtxContext() if is_rtx else NewContext() if has_v2 else OldContext()

        if is_rtx:

            def create_runtime_config(self) -> Any:
                return _RtxConfig(gpu)

    setattr(PlanEngine, "device_memory_size_v2" if has_v2 else "device_memory_size", SCRATCH)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            gpu.record("runtime")

        def deserialize_cuda_engine(self, content: bytes) -> PlanEngine | None:
            gpu.record("deserialize")
            return PlanEngine(shares_profile=content == SHARED_PLAN) if readable else None

    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    module = SimpleNamespace(__version__=version, Runtime=Runtime, Logger=logger, uint8="uint8", float32="float32")
    if major >= 10:
        module.ExecutionContextAllocationStrategy = Allocation
    if is_rtx:
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    return module


class _RtxCache:
    """IRuntimeCache of TensorRT for RTX, which takes nothing of another GPU."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.content = b"nothing"
        self._gpu = gpu

    def deserialize(self, content: bytes) -> bool:
        if fits := content == b"kernels":
            self.content = content
        return fits

    def serialize(self) -> memoryview:
        return memoryview(b"kernels")


class _RtxConfig:
    """IRuntimeConfig of TensorRT for RTX."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.memory = Allocation.STATIC
        self.kernels = "lazy"
        self._gpu = gpu

    def create_runtime_cache(self) -> _RtxCache:
        self._gpu.record("cache")
        return _RtxCache(self._gpu)

    def set_runtime_cache(self, cache: _RtxCache) -> bool:
        self._gpu.record(f"cache of {cache.content.decode()}")
        return True

    def set_execution_context_allocation_strategy(self, strategy: Allocation) -> None:
        self.memory = strategy

    @property
    def dynamic_shapes_kernel_specialization_strategy(self) -> str:
        return self.kernels

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, strategy: str) -> None:
        self.kernels = strategy


def runtime_for_children(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, program: str) -> None:
    """Let child processes find a runtime of version 10.3 under this name."""
    module = "__version__ = '10.3'\nclass Logger:\n    ERROR = 1\n    def __init__(self, level): ...\n"
    (folder / f"{name}.py").write_text(module + program)
    monkeypatch.setenv("PYTHONPATH", str(folder))
