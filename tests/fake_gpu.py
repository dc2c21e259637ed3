"""A GPU whose memory is the host's, and TensorRT's runtime on it; every call is recorded, with its thread."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

SHAPES = {"logits": (2, 64, 64), "embedding": (32,)}


class FakeGpu:
    """The module tensorrt (`module`) and the class CudaPython (`cuda`) of one GPU.

    A run adds the mean grey of each image to logits (0, 0, 0) and takes 1 to 32 as its embedding.
    """

    def __init__(self, *, version: str = "10.3", readable: bool = True, outputs: tuple[str, ...] = tuple(SHAPES)):
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.memory: dict[int, np.ndarray] = {}
        self.fails = False
        self.batches: list[int] = []
        gpu = self

        class Context:
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
                return True

            def execute_async_v3(self, stream: int) -> bool:
                gpu.record(f"execute {stream}")
                gpu.batches.append(self.shape[0])
                count = int(np.prod(self.shape))
                images = gpu.memory[self.addresses["images"]][:count].reshape(self.shape)
                logits = gpu.memory[self.addresses["logits"]].view(np.float32).reshape(-1, *SHAPES["logits"])
                logits[: len(images)] = 0
                logits[: len(images), 0, 0, 0] = images.mean(axis=(1, 2, 3))
                embedding = gpu.memory[self.addresses["embedding"]].view(np.float32).reshape(-1, 32)
                embedding[: len(images)] = np.arange(1, 33)
                return not gpu.fails

        class PlanEngine:
            names = ("images", *outputs)
            num_io_tensors = len(names)

            def get_tensor_name(self, index: int) -> str:
                return self.names[index]

            def get_tensor_dtype(self, name: str) -> str:
                return "uint8" if name == "images" else "float32"

            def create_execution_context(self) -> Context:
                gpu.record("context")
                return Context()

        class Runtime:
            def __init__(self, logger: Any) -> None:
                gpu.record("runtime")

            def deserialize_cuda_engine(self, content: bytes) -> PlanEngine | None:
                gpu.record("deserialize")
                return PlanEngine() if readable else None

        class Cuda:
            stream = 7

            def __init__(self) -> None:
                gpu.record("stream")

            def allocate(self, size: int) -> int:
                address = 1000 + len(gpu.memory)
                gpu.memory[address] = np.zeros(size, np.uint8)
                return address

            def pinned(self, size: int) -> np.ndarray:
                return np.zeros(size, np.uint8)

            def to_device(self, address: int, host: np.ndarray) -> None:
                gpu.record("to device")
                gpu.memory[address][: host.nbytes] = host.reshape(-1).view(np.uint8)

            def to_host(self, host: np.ndarray, address: int) -> None:
                gpu.record("to host")
                host.reshape(-1).view(np.uint8)[:] = gpu.memory[address][: host.nbytes]

            def wait(self) -> None:
                gpu.record("wait")

            def free(self) -> None:
                gpu.record("free")

        logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
        self.module = SimpleNamespace(
            __version__=version, Runtime=Runtime, Logger=logger, uint8="uint8", float32="float32"
        )
        self.cuda = Cuda

    def record(self, call: str) -> None:
        """Write a call down, and the thread that it came from."""
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)
