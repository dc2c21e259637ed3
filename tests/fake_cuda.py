"""CUDA's runtime as cuda-python offers it, with the host's memory for the GPU's; every call is recorded, in order.

While a stream is captured nothing runs: what is put on it is kept, and done at each launch of the graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class MemcpyKind(IntEnum):
    """cudaMemcpyKind."""

    TO_DEVICE = 1
    TO_HOST = 2


class CaptureMode(IntEnum):
    """cudaStreamCaptureMode."""

    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815 - CUDA's name


class FakeCuda:
    """The module cuda.bindings.runtime; functions return (error,) or (error, value).

    `refuses` maps a function's name to the error number that it returns from now on.
    """

    cudaMemcpyKind = MemcpyKind  # noqa: N815 - CUDA's name
    cudaStreamCaptureMode = CaptureMode  # noqa: N815

    def __init__(self, record: Callable[[str], None]) -> None:
        self.refuses: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.alive: set[Any] = set()
        """Streams, graphs and addresses that were not given back."""
        self._record = record
        self._captured: list[Callable[[], None]] | None = None
        self._made = 0

    def on_stream(self, work: Callable[[], None]) -> None:
        """What a kernel does: now, or when the graph in the making is launched."""
        if self._captured is None:
            work()
        else:
            self._captured.append(work)

    def at(self, address: int, size: int) -> Any:
        """`size` bytes of memory, as a ctypes array."""
        return (ctypes.c_uint8 * size).from_address(address)

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        function = getattr(type(self), f"_{name}", None)
        if function is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            value = function(self, *arguments)
            error = self.refuses.get(name, 0)
            return (error,) if value is None else (error, value)

        return call

    def _new(self, kind: str) -> str:
        self._made += 1
        self.alive.add(f"{kind} {self._made}")
        return f"{kind} {self._made}"

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        assert flags == 1, "a blocking stream that is captured makes the legacy stream fail for everybody"
        self._record("stream")
        self.alive.add(7)
        return 7

    def _cudaStreamDestroy(self, stream: int) -> None:  # noqa: N802
        self._record("destroy stream")
        self.alive.remove(stream)

    def _cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        assert self._captured is None, "a stream that is captured cannot be waited for"
        self._record("wait")

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        assert self._captured is None
        block = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(block)
        self.memory[address] = block
        self.alive.add(address)
        return address

    _cudaMallocHost = _cudaMalloc  # noqa: N815

    def _cudaFree(self, address: int) -> None:  # noqa: N802
        self._record("free")
        self.alive.remove(address)  # the bytes stay until the test ends, as a stale view would read them

    _cudaFreeHost = _cudaFree  # noqa: N815

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: MemcpyKind, stream: int) -> None:  # noqa: N802
        self._record("to device" if kind == MemcpyKind.TO_DEVICE else "to host")
        self.on_stream(lambda: ctypes.memmove(target, source, size) and None)

    def _cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> None:  # noqa: N802
        self._record(f"capture {mode.name.removeprefix('cudaStreamCaptureMode')}")
        if "cudaStreamBeginCapture" not in self.refuses:
            self._captured = []

    def _cudaStreamEndCapture(self, stream: int) -> str:  # noqa: N802
        assert self._captured is not None
        self._record("end capture")
        graph = self._new("graph")
        self.memory[graph] = self._captured  # type: ignore[index]
        self._captured = None
        return graph

    def _cudaGraphInstantiate(self, graph: str, flags: int) -> str:  # noqa: N802
        self._record("instantiate")
        if "cudaGraphInstantiate" in self.refuses:
            return ""
        ready = self._new("executable")
        self.memory[ready] = self.memory[graph]  # type: ignore[index]
        return ready

    def _cudaGraphLaunch(self, ready: str, stream: int) -> None:  # noqa: N802
        self._record(f"launch {stream}")
        for work in self.memory[ready]:  # type: ignore[index]
            work()

    def _cudaGraphDestroy(self, graph: str) -> None:  # noqa: N802
        self._record("destroy graph")
        self.alive.remove(graph)

    def _cudaGraphExecDestroy(self, ready: str) -> None:  # noqa: N802
        self._record("destroy executable")
        self.alive.remove(ready)

    def _cudaGetLastError(self) -> int:  # noqa: N802
        self._record("last error")
        return 0
