"""TensorRT on a real GPU: a plan built here gives PyTorch's answer from every thread. Skipped where there is no GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engines.base import EngineError, EngineUnavailable
from engines.cuda import Gpu, first_gpu
from engines.plans import MODULES, Runtime
from engines.tensorrt_engine import TensorRtEngine
from export import to_tensorrt
from export.to_onnx import Precision, extreme_images
from export.verify import verify
from sgmsnet.checkpoint import ModelFiles, find

KINDS: list[tuple[Runtime, Precision]] = [(runtime, precision) for runtime in MODULES for precision in ("fp16", "fp32")]


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


def test_a_closed_engine_refuses_to_run(engine: TensorRtEngine, example_images: np.ndarray) -> None:
    engine.close()  # the last test of this engine
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(example_images)
