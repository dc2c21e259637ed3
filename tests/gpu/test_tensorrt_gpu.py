"""TensorRT on a real GPU: a plan built here gives PyTorch's answer from every thread. Skipped where there is no GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from engines import cuda
from engines.base import EngineError, EngineUnavailable
from engines.cuda import Gpu, first_gpu
from engines.plans import MODULES, Runtime
from engines.select import open_engine
from engines.tensorrt_engine import TensorRtEngine
from export import to_tensorrt
from export.to_onnx import Precision, extreme_images
from export.verify import verify
from sgmsnet.checkpoint import ModelFiles, find

KINDS: list[tuple[Runtime, Precision]] = [(runtime, precision) for runtime in MODULES for precision in ("fp16", "fp32")]


BUILT: dict[TensorRtEngine, Path] = {}
"""Where each engine's plan lies."""


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    """A GPU is no tool that can be installed, so its absence skips even where everything is required."""
    try:
        return first_gpu()
    except EngineUnavailable as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def engine(
    request: pytest.FixtureRequest, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TensorRtEngine]:
    runtime, precision = request.param
    if importlib.util.find_spec(MODULES[runtime]) is None:
        pytest.skip(f"{MODULES[runtime]} is not installed on this GPU machine")
    supported = getattr(importlib.import_module(MODULES[runtime]), "ComputeCapability", None)
    if runtime == "tensorrt-rtx" and not hasattr(supported, f"SM{gpu.compute_capability.replace('.', '')}"):
        pytest.skip(f"TensorRT for RTX does not build for {gpu.name}, compute capability {gpu.compute_capability}")
    files: ModelFiles = request.getfixturevalue("files")
    built = tmp_path_factory.mktemp("built")
    to_tensorrt.build(files, runtime=runtime, precision=precision, built=built, workspace_mb=256)
    opened = TensorRtEngine(files, runtime=runtime, precision=precision, built=built)
    BUILT[opened] = built
    yield opened
    opened.close()


def test_info_names_the_gpu(engine: TensorRtEngine, gpu: Gpu, files: ModelFiles) -> None:
    assert engine.info.device == gpu.name
    assert engine.info.outputs == files.config.outputs


def test_it_gives_pytorch_s_answer(engine: TensorRtEngine, files: ModelFiles, example_images: np.ndarray) -> None:
    parity = verify(files, engine, example_images)
    if parity.precision == "fp32":
        assert parity.passed, parity
    else:  # a random network's masks have far longer borders than a chest's, for which the bound is made
        assert parity.not_finite == 0
        assert parity.mask_iou_mean > 0.95, parity


@pytest.mark.parametrize("batch", [1, 3, 16, 17])
def test_a_batch_gives_what_single_images_give(engine: TensorRtEngine, example_images: np.ndarray, batch: int) -> None:
    images = np.resize(example_images, (batch, 1, 64, 64))
    together = engine.run(images)["logits"]
    tolerance = 1e-3 if engine.info.precision == "fp32" else 0.1
    for index in range(min(batch, 4)):
        alone = engine.run(images[index : index + 1])["logits"]
        np.testing.assert_allclose(together[index], alone[0], rtol=0, atol=tolerance)


def test_extreme_images_give_finite_values(engine: TensorRtEngine) -> None:
    assert all(np.isfinite(value).all() for value in engine.run(extreme_images(64, 64)).values())


def test_threads_get_the_answers_of_a_single_thread(engine: TensorRtEngine, example_images: np.ndarray) -> None:
    expected = [engine.run(example_images[index : index + 1])["logits"] for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: engine.run(example_images[k % 4 : k % 4 + 1])["logits"], range(32)))
    for index, logits in enumerate(found):
        np.testing.assert_array_equal(logits, expected[index % 4])


def test_outputs_have_the_names_shapes_and_dtype_of_the_contract(
    engine: TensorRtEngine, files: ModelFiles, example_images: np.ndarray
) -> None:
    reference = open_engine("pytorch", files, precision="fp32")
    expected = reference.run(example_images[:3])
    reference.close()
    outputs = engine.run(example_images[:3])
    assert tuple(outputs) == tuple(expected)
    for name, value in outputs.items():
        assert (value.shape, value.dtype, value.flags.c_contiguous) == (expected[name].shape, np.float32, True)


def test_results_stay_as_they_are_when_the_engine_runs_again(
    engine: TensorRtEngine, example_images: np.ndarray
) -> None:
    first = engine.run(example_images[:1])
    before = {name: value.copy() for name, value in first.items()}
    engine.run(example_images[3:])
    for name, value in first.items():
        np.testing.assert_array_equal(value, before[name])


def test_other_arrays_than_the_contract_s_are_refused(engine: TensorRtEngine) -> None:
    for images in (np.zeros((1, 1, 64, 64), np.float32), np.zeros((1, 1, 32, 64), np.uint8)):
        with pytest.raises(ValueError, match="images must"):
            engine.run(images)


def test_a_cuda_graph_gives_what_plain_runs_give(
    engine: TensorRtEngine, files: ModelFiles, example_images: np.ndarray
) -> None:
    assert engine.info.notes == (), "no CUDA graph could be captured on this GPU"
    runtime, precision = engine.info.backend, engine.info.precision
    plain = TensorRtEngine(
        files, runtime=cast("Runtime", runtime), precision=precision, built=BUILT[engine], cuda_graph=False
    )
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
        runtime = cast("Runtime", engine.info.backend)
        opened = TensorRtEngine(files, runtime=runtime, precision=engine.info.precision, built=BUILT[engine])
        opened.run(example_images)
        opened.close()

    once()  # what libraries keep for good
    before = free_bytes()
    for _ in range(5):
        once()
    assert before - free_bytes() < 16 * 2**20


def test_a_closed_engine_refuses_to_run(engine: TensorRtEngine, example_images: np.ndarray) -> None:
    engine.close()  # the last test of this engine
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(example_images)
