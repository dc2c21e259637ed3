"""TensorRT on a real GPU, beside what the contract suite asks of every engine. Skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from engines import cuda
from engines.plans import MODULES, Runtime
from engines.tensorrt_engine import TensorRtEngine
from export.to_onnx import Precision, extreme_images
from sgmsnet.checkpoint import ModelFiles, find
from tests.gpu.plans import planned, require_gpu

KINDS: list[tuple[Runtime, Precision]] = [(runtime, precision) for runtime in MODULES for precision in ("fp16", "fp32")]


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def engine(request: pytest.FixtureRequest) -> Iterator[TensorRtEngine]:
    runtime, precision = request.param
    require_gpu(runtime)
    opened = _open(request.getfixturevalue("files"), runtime, precision)
    yield opened
    opened.close()


def _open(files: ModelFiles, runtime: str, precision: str, *, cuda_graph: bool = True) -> TensorRtEngine:
    known = cast("Runtime", runtime)
    built = planned(files.weights, known, cast("Precision", precision))
    return TensorRtEngine(files, runtime=known, precision=precision, built=built, cuda_graph=cuda_graph)


def test_info_names_the_gpu(engine: TensorRtEngine) -> None:
    assert engine.info.device == cuda.first_gpu().name


@pytest.mark.parametrize("batch", [16, 17])
def test_batches_up_to_the_plan_s_and_beyond_give_what_single_images_give(
    engine: TensorRtEngine, example_images: np.ndarray, batch: int
) -> None:
    images = np.resize(example_images, (batch, 1, 64, 64))
    together = engine.run(images)["logits"]
    tolerance = 1e-3 if engine.info.precision == "fp32" else 0.1
    for index in (0, 1, batch - 1):
        alone = engine.run(images[index : index + 1])["logits"]
        np.testing.assert_allclose(together[index], alone[0], rtol=0, atol=tolerance)


def test_extreme_images_give_finite_values(engine: TensorRtEngine) -> None:
    assert all(np.isfinite(value).all() for value in engine.run(extreme_images(64, 64)).values())


def test_a_cuda_graph_gives_what_plain_runs_give(
    engine: TensorRtEngine, files: ModelFiles, example_images: np.ndarray
) -> None:
    assert engine.info.notes == (), "no CUDA graph could be captured on this GPU"
    plain = _open(files, engine.info.backend, engine.info.precision, cuda_graph=False)
    try:
        for batch in (1, 3, 1, 16, 3, 1):  # a graph for each size, taken again after others
            images = np.resize(example_images, (batch, 1, 64, 64))
            captured, expected = engine.run(images), plain.run(images)
            for name, value in expected.items():
                np.testing.assert_allclose(captured[name], value, rtol=0, atol=1e-3, err_msg=name)
    finally:
        plain.close()


def test_opening_and_closing_gives_all_gpu_memory_back(
    engine: TensorRtEngine, files: ModelFiles, example_images: np.ndarray
) -> None:
    def free_bytes() -> int:
        asked = cuda.CudaPython()
        free = int(asked._call("cudaMemGetInfo"))  # the first of two values
        asked.free()
        return free

    def once() -> None:
        opened = _open(files, engine.info.backend, engine.info.precision)
        opened.run(example_images)
        opened.close()

    once()  # what libraries keep for good
    before = free_bytes()
    for _ in range(5):
        once()
    assert before - free_bytes() < 16 * 2**20
