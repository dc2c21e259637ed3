"""The NVIDIA driver asked without any package: is there a GPU, and which; and memory on it through cuda-python.

Not here: TensorRT. The driver is asked first, since TensorRT without one may end the process instead of raising.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engines.base import EngineError, EngineUnavailable

_MAJOR, _MINOR, _MULTIPROCESSORS = 75, 76, 16  # CUdevice_attribute; the first two are the compute capability
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this process."""

    name: str
    compute_capability: str
    """For example "8.9"."""
    multiprocessors: int | None = None
    """Tells modules apart that share name and compute capability, as those of Jetson Orin; None where not asked."""


def first_gpu() -> Gpu:
    """Ask the driver; raises EngineUnavailable when there is none or it has no GPU for this process."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver: Any = ctypes.CDLL(library)
    except OSError as error:
        raise EngineUnavailable(f"this machine has no NVIDIA driver ({library} is not there)") from error
    device, major, minor, multiprocessors = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    steps: tuple[Callable[[], int], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, len(name), device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(multiprocessors), _MULTIPROCESSORS, device),
    )
    for step in steps:
        if status := step():
            raise EngineUnavailable(f"the NVIDIA driver offers no GPU here (CUDA error {status})")
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", multiprocessors.value)


class Cuda(Protocol):
    """Memory and one stream on the GPU; every call belongs to the thread that made the object."""

    stream: int

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device."""

    def pinned(self, size: int) -> np.ndarray:
        """uint8 (size,) on the host, which the device reads and writes without a copy between."""

    def to_device(self, address: int, host: np.ndarray) -> None:
        """Begin to copy a pinned array to the device."""

    def to_host(self, host: np.ndarray, address: int) -> None:
        """Begin to copy from the device to a pinned array."""

    def wait(self) -> None:
        """Return when everything on the stream is done."""

    def capture(self, work: Callable[[], None]) -> Any:
        """A graph of what `work` puts on the stream, which does not run it; raises EngineError, and whatever work does.

        After a failure the stream is as before, and `work` may be run without a graph.
        """

    def launch(self, graph: Any) -> None:
        """Begin to run what was captured."""

    def forget_graphs(self) -> None:
        """Destroy all graphs; a second call does nothing."""

    def free(self) -> None:
        """Give graphs, memory and stream back; a second call does nothing."""


class CudaPython:
    """Cuda through the package cuda-python."""

    def __init__(self) -> None:
        """Make the stream; raises EngineUnavailable without the package, EngineError when CUDA refuses."""
        self._api = _runtime_api()
        self._device: list[int] = []
        self._host: list[int] = []
        self._graphs: list[Any] = []
        # Non-blocking: while a blocking stream is captured, what others put on the legacy stream fails, as torch does.
        self._stream: Any = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)
        self.stream = int(self._stream)

    def allocate(self, size: int) -> int:
        """See Cuda."""
        address = int(self._call("cudaMalloc", size))
        self._device.append(address)
        return address

    def pinned(self, size: int) -> np.ndarray:
        """See Cuda."""
        address = int(self._call("cudaMallocHost", size))
        self._host.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def to_device(self, address: int, host: np.ndarray) -> None:
        """See Cuda."""
        self._copy(address, host.ctypes.data, host.nbytes, _TO_DEVICE)

    def to_host(self, host: np.ndarray, address: int) -> None:
        """See Cuda."""
        self._copy(host.ctypes.data, address, host.nbytes, _TO_HOST)

    def wait(self) -> None:
        """See Cuda."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """See Cuda."""
        # Of this thread alone: what other threads ask of CUDA meanwhile, as to allocate memory, spoils nothing.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._leave_capture()
            raise
        try:
            graph = self._call("cudaStreamEndCapture", self._stream)
        except EngineError:
            self._api.cudaGetLastError()  # or a later call would be told of it
            raise
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._api.cudaGraphDestroy(graph)
        self._graphs.append(executable)
        return executable

    def launch(self, graph: Any) -> None:
        """See Cuda."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def forget_graphs(self) -> None:
        """See Cuda."""
        for graph in self._graphs:
            self._api.cudaGraphExecDestroy(graph)
        self._graphs = []

    def free(self) -> None:
        """See Cuda."""
        self.forget_graphs()
        for address in self._device:
            self._api.cudaFree(address)
        for address in self._host:
            self._api.cudaFreeHost(address)
        if self._stream is not None:
            self._api.cudaStreamDestroy(self._stream)
        self._device, self._host, self._stream = [], [], None

    def _leave_capture(self) -> None:
        """End a capture that failed; CUDA's word about it is of no use, and must not be taken for a later call's."""
        error, *graph = self._api.cudaStreamEndCapture(self._stream)
        if int(error) == 0 and graph:
            self._api.cudaGraphDestroy(graph[0])
        self._api.cudaGetLastError()

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size, self._api.cudaMemcpyKind(kind), self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """cuda-python returns (error,) or (error, value)."""
        error, *value = getattr(self._api, name)(*arguments)
        if int(error) != 0:
            raise EngineError(f"{name} failed with CUDA error {int(error)}")
        return value[0] if value else None


def _runtime_api() -> Any:
    for module in ("cuda.bindings.runtime", "cuda.cudart"):  # from 12.6 on, and before
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise EngineUnavailable("the package cuda-python is not installed")
