"""One suite for every runtime: whatever holds the model, the same bytes give the same answers under the same names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engines import processor, server_address
from engines.base import Engine, EngineError, EngineUnavailable
from engines.plans import MODULES as PLANS
from engines.select import ENGINES, open_engine, open_unverified
from export import ExportError, to_openvino
from export.cases import Case
from export.verify import Parity, verify, verify_reference
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.imaging import Geometry
from tests.gpu.plans import planned, require_gpu
from tests.needs import missing
from tests.oip_server import serving

KINDS = [
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "fp16"),
    ("openvino", "int8"),
    ("onnxruntime", "fp32"),
    ("pytorch", "fp32"),
    ("pytorch", "bf16"),
    ("pytorch", "fp16"),
    ("triton", "fp32"),
    ("tensorrt", "fp16"),
    ("tensorrt", "fp32"),
    ("tensorrt-rtx", "fp16"),
    ("tensorrt-rtx", "fp32"),
]
MODULES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "pytorch": "torch"}
BEHIND = "onnxruntime"
"""What the stand-in for a Triton server runs; tests/triton holds a real one to the same."""


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def engine(request: pytest.FixtureRequest, files: ModelFiles) -> Iterator[Engine]:
    name, precision = request.param
    if name in PLANS:
        require_gpu(name)  # skips where there is none
    module = (MODULES | PLANS)[BEHIND if name == "triton" else name]
    if importlib.util.find_spec(module) is None:
        missing(f"{module} is not installed")
    if name == "triton":
        yield from _behind_a_server(files)
        return
    try:
        opened = _open(name, files, precision)
    except EngineUnavailable as error:
        if precision == "fp32":  # every processor has it
            raise
        pytest.skip(str(error))
    yield opened
    opened.close()


def _open(name: str, files: ModelFiles, precision: str) -> Engine:
    if precision == "int8":  # of a random network, which is not held to the bound of what is accepted
        processor.require_int8()
        return open_unverified(name, files, precision=precision, built=_quantised(files.weights))
    if name in PLANS:
        return open_unverified(name, files, precision=precision, built=planned(files.weights, name, precision))
    return open_engine(name, files, precision=precision)


@cache
def _quantised(weights: Path) -> Path:
    if importlib.util.find_spec("nncf") is None:
        missing("nncf is not installed")
    files, built = find(weights), weights.parent / "built"
    images = np.load(weights.with_suffix(".reference.npz"))["images"]
    cases = [Case(image, Geometry(64, 64, 64, 64, 0, 0, 64, 64)) for image in images]
    with pytest.raises(ExportError, match=r"refused, .*100 are required"):
        to_openvino.build(files, precision="int8", calibration=cases, verification=cases, built=built)
    return built


def _behind_a_server(files: ModelFiles) -> Iterator[Engine]:
    behind = open_engine(BEHIND, files)
    with pytest.MonkeyPatch.context() as patch, serving(behind) as url:
        patch.setenv(server_address.URL, url)
        opened = open_engine("triton", files)
        yield opened
        opened.close()
    behind.close()


def test_every_engine_is_under_this_contract() -> None:
    assert {name for name, _ in KINDS} == set(ENGINES)


def test_info_describes_the_model(engine: Engine, files: ModelFiles) -> None:
    info = engine.info
    assert (info.height, info.width, info.classes) == (64, 64, ("lungs", "infection"))
    assert info.outputs == files.config.outputs
    assert (info.model, info.model_sha256) == ("tiny", files.sha256)
    assert info.runtime_version
    assert info.load_ms > 0


def test_outputs_have_the_names_shapes_and_dtype_of_the_contract(engine: Engine, example_images: np.ndarray) -> None:
    outputs = engine.run(example_images[:3])
    assert tuple(outputs) == engine.info.outputs
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": (3, 2, 64, 64),
        "memory_5": (3, 1, 2, 2),
        "gate_5": (3, 1, 2, 2),
        "spatial_5": (3, 1, 2, 2),
        "gate_4": (3, 1, 4, 4),
        "spatial_4": (3, 1, 4, 4),
        "gate_3": (3, 1, 8, 8),
        "spatial_3": (3, 1, 8, 8),
        "gate_2": (3, 1, 16, 16),
        "spatial_2": (3, 1, 16, 16),
        "embedding": (3, 32),
    }
    for name, value in outputs.items():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        assert np.isfinite(value).all(), name
        if name not in ("logits", "embedding"):
            assert 0 <= value.min() <= value.max() <= 1, name


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_a_batch_gives_what_single_images_give(engine: Engine, example_images: np.ndarray, batch: int) -> None:
    exact = 1e-3 if engine.info.backend in PLANS else 1e-4  # TensorRT has kernels of its own for each batch size
    tolerance = exact if engine.info.precision == "fp32" else 0.1
    together = engine.run(example_images[:batch])
    for index in range(batch):
        alone = engine.run(example_images[index : index + 1])
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][index], value[0], rtol=0, atol=tolerance, err_msg=name)


def test_threads_get_the_answers_of_a_single_thread(engine: Engine, example_images: np.ndarray) -> None:
    expected = [engine.run(example_images[index : index + 1])["logits"] for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: engine.run(example_images[k % 4 : k % 4 + 1])["logits"], range(32)))
    for index, logits in enumerate(found):
        np.testing.assert_allclose(logits, expected[index % 4], rtol=0, atol=1e-4)


def test_results_stay_as_they_are_when_the_engine_runs_again(engine: Engine, example_images: np.ndarray) -> None:
    first = engine.run(example_images[:1])
    before = {name: value.copy() for name, value in first.items()}
    engine.run(example_images[3:])
    for name, value in first.items():
        np.testing.assert_array_equal(value, before[name])


def test_images_without_their_own_contiguous_memory_are_taken(engine: Engine, example_images: np.ndarray) -> None:
    flipped = example_images[:2, :, :, ::-1]
    flipped.setflags(write=False)
    found = engine.run(flipped)
    np.testing.assert_array_equal(found["logits"], engine.run(flipped.copy())["logits"])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((1, 1, 32, 64), np.uint8),
        np.zeros((1, 64, 64), np.uint8),
        np.zeros((0, 1, 64, 64), np.uint8),
    ],
    ids=["float32", "three channels", "other height", "no channel axis", "no image"],
)
def test_other_arrays_than_the_contract_s_are_refused(engine: Engine, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="images must"):
        engine.run(images)


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_constant_image_gives_finite_values(engine: Engine, grey: int) -> None:
    outputs = engine.run(np.full((1, 1, 64, 64), grey, np.uint8))
    assert all(np.isfinite(value).all() for value in outputs.values())


def test_parity_with_pytorch_fp32_is_within_the_bound(
    engine: Engine, files: ModelFiles, example_images: np.ndarray
) -> None:
    _assert_within_bound(verify(files, engine, example_images))


def test_parity_with_the_stored_reference_is_within_the_bound(engine: Engine, files: ModelFiles) -> None:
    _assert_within_bound(verify_reference(files, engine))


def _assert_within_bound(parity: Parity) -> None:
    if parity.precision == "fp32":
        assert parity.passed, parity
    else:  # a random network's masks have far longer borders than a chest's, for which the bound is made
        assert parity.not_finite == 0
        assert parity.mask_iou_mean > (0.9 if parity.precision == "int8" else 0.95), parity


def test_a_closed_engine_refuses_to_run_and_may_be_closed_again(
    engine: Engine, files: ModelFiles, example_images: np.ndarray
) -> None:
    other = _open(engine.info.backend, files, engine.info.precision)
    other.run(example_images[:1])
    other.close()
    other.close()
    with pytest.raises(EngineError, match="closed"):
        other.run(example_images[:1])
    assert engine.run(example_images[:1])["logits"].shape == (1, 2, 64, 64)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "pytorch"])
def test_a_run_leaves_torch_and_the_network_alone(name: str, tiny_model: Path) -> None:
    if importlib.util.find_spec(name) is None:
        missing(f"{name} is not installed")
    program = f"""
import sys
sent = []
sys.addaudithook(lambda event, _: sent.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
import numpy as np
from engines.select import open_engine, probe
from sgmsnet.checkpoint import find
files = find({str(tiny_model)!r})
probe(files)
engine = open_engine({name!r}, files)
engine.run(np.zeros((1, 1, 64, 64), np.uint8))
engine.close()
assert "torch" not in sys.modules
assert not sent
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
