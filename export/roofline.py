"""How fast the machine could run the network at best: operations and bytes of the graph, peaks measured here.

Attainable operations per second = min(peak, operations per byte x bandwidth). Source: Williams, Waterman and
Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009. Not here: running the engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.processor import multiplies_bf16

if TYPE_CHECKING:
    import onnx

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Of one weight and of one activation."""
_SIDE = 2048  # of the matrices whose product gives the peak
_COPY_BYTES = 256 * 2**20  # larger than any cache


@dataclass(frozen=True)
class Work:
    """One image's work: multiplications and additions, weights, and elements written by all nodes and read again."""

    operations: float
    weights: int
    activations: int

    def bytes_moved(self, precision: str) -> float:
        """Weights once, activations written and read once."""
        return float(BYTES[precision] * (self.weights + 2 * self.activations))


@dataclass(frozen=True)
class Peaks:
    """What this machine reached: operations per second by precision, and bytes per second."""

    operations_per_s: dict[str, float]
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """How near an engine comes to what the roof allows."""

    engine: str
    precision: str
    batch: int
    gflop_per_s: float
    attainable_gflop_per_s: float

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.gflop_per_s / self.attainable_gflop_per_s


def count(graph: Path, *, height: int, width: int) -> Work:
    """Count convolutions and matrix products of an ONNX file for one image; what else there is costs little.

    Shapes come from a run in ONNX Runtime: those behind a Reshape to a computed shape cannot be inferred.
    """
    import onnx

    model = onnx.load(graph)
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    weights = {item.name: tuple(item.dims) for item in model.graph.initializer}
    shapes = weights | _shapes_of_a_run(model, [name for node in nodes for name in node.output if name], height, width)
    made = [name for node in nodes for name in node.output if name and node.op_type != "Cast"]
    return Work(
        operations=float(sum(_operations(node, shapes) for node in nodes)),
        weights=sum(prod(shape) for shape in weights.values()),
        activations=sum(prod(shapes[name]) for name in made),
    )


def _shapes_of_a_run(model: onnx.ModelProto, names: list[str], height: int, width: int) -> dict[str, tuple[int, ...]]:
    import onnx
    import onnxruntime

    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.zeros((1, 1, height, width), np.uint8)
    values = session.run(names, {session.get_inputs()[0].name: image})
    return {name: np.shape(value) for name, value in zip(names, values, strict=True)}


def _operations(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type == "Conv":
        _, inputs_per_group, *kernel = shapes[node.input[1]]
        return 2 * prod(shapes[node.output[0]]) * inputs_per_group * prod(kernel)
    if node.op_type in ("MatMul", "Gemm"):
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return 0


def measure_peaks(*, seconds: float = 2.0) -> Peaks:
    """Multiply large matrices in FP32 and, where the processor can, BF16, and copy memory.

    FP32 is the faster of torch and NumPy, whose libraries suit different processors. INT8 and FP16 are not measured.
    """
    import torch

    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "bf16" and not multiplies_bf16():
            continue  # emulated, one product took two minutes (AMD EPYC, AVX2)
        matrix = torch.randn(_SIDE, _SIDE).to(dtype)
        fastest = _fastest(partial(torch.mm, matrix, matrix.clone()), seconds=seconds)
        if name == "fp32":
            array = matrix.numpy()
            fastest = min(fastest, _fastest(partial(np.matmul, array, array.copy()), seconds=seconds))
        peaks[name] = 2 * _SIDE**3 / fastest
    source = np.ones(_COPY_BYTES // 8)
    target = np.empty_like(source)
    moved = 2 * _COPY_BYTES / _fastest(lambda: np.copyto(target, source), seconds=seconds)
    return Peaks(peaks, moved)


def _fastest(work: Callable[[], Any], *, seconds: float) -> float:
    """Seconds of the fastest of the runs that fit into the time; at least three."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def attainable(work: Work, peaks: Peaks, precision: str, *, batch: int) -> float | None:
    """Operations per second that the roof allows; None for a precision whose peak was not measured."""
    if precision not in peaks.operations_per_s:
        return None
    size = BYTES[precision]
    moved = size * (work.weights + 2 * work.activations * batch)
    intensity = work.operations * batch / moved
    return min(peaks.operations_per_s[precision], intensity * peaks.bytes_per_s)


def shares(work: Work, peaks: Peaks, rows: Sequence[Any]) -> list[Share]:
    """One for each row of the benchmark (bench_engines.Row) whose precision has a measured peak."""
    found = []
    for row in rows:
        roof = attainable(work, peaks, row.precision, batch=row.batch)
        if roof is not None:
            reached = work.operations * row.batch / (row.p50_ms / 1e3)
            found.append(
                Share(
                    engine=row.engine,
                    precision=row.precision,
                    batch=row.batch,
                    gflop_per_s=reached / 1e9,
                    attainable_gflop_per_s=roof / 1e9,
                )
            )
    return found
