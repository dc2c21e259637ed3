"""The TensorRT engine on a GPU made of fakes: order of calls, one thread, a reason for every plan refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import cuda, manifest, plans, select, tensorrt_engine
from engines.base import EngineError, EngineUnavailable
from engines.cuda import Gpu, first_gpu
from engines.select import choose
from engines.tensorrt_check import check_plan
from engines.tensorrt_engine import TensorRtEngine
from sgmsnet.checkpoint import ModelFiles, find
from tests.fake_gpu import FakeGpu
from tests.fake_tensorrt import a_manifest


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def folder(files: ModelFiles, tmp_path: Path) -> Path:
    """A plan with its manifest where the engine looks for it."""
    folder = tmp_path / "tiny" / "tensorrt-fp16"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(b"plan")
    made = replace(
        a_manifest(),
        runtime="tensorrt",
        runtime_version="10.3",
        weights_sha256=files.sha256,
        artefact_sha256=manifest.file_sha256(folder / "model.plan"),
    )
    manifest.write(folder, made)
    return folder


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeGpu]:
    """Put a fake GPU in place of driver, cuda-python and TensorRT."""

    def put(*, compute_capability: str = "8.9", **options: Any) -> FakeGpu:
        gpu = FakeGpu(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", gpu.module)
        monkeypatch.setattr(cuda, "CudaPython", gpu.cuda)
        monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", compute_capability))
        monkeypatch.setattr(tensorrt_engine, "check_plan", lambda module, plan: gpu.module.__version__)
        return gpu

    return put


def _open(files: ModelFiles, folder: Path, **options: Any) -> TensorRtEngine:
    return TensorRtEngine(files, runtime="tensorrt", built=folder.parent.parent, **options)


def _images(*greys: int) -> np.ndarray:
    return np.stack([np.full((1, 64, 64), grey, np.uint8) for grey in greys])


def test_opening_and_running_call_tensorrt_in_this_order(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install()
    engine = _open(files, folder)
    assert gpu.calls[:4] == ["stream", "runtime", "deserialize", "context"]
    assert sorted(gpu.calls[4:7]) == ["address embedding", "address images", "address logits"]
    one_run = ["shape images (1, 1, 64, 64)", "to device", "execute 7", "to host", "to host", "wait"]
    assert gpu.calls[7:] == one_run  # the warm-up
    outputs = engine.run(_images(40))
    assert gpu.calls[13:] == one_run
    assert {name: value.shape for name, value in outputs.items()} == {"logits": (1, 2, 64, 64), "embedding": (1, 32)}
    assert outputs["logits"][0, 0, 0, 0] == 40
    np.testing.assert_array_equal(outputs["embedding"][0], np.arange(1, 33))
    info = engine.info
    assert (info.backend, info.precision, info.device, info.runtime_version) == ("tensorrt", "fp16", "RTX", "10.3")
    assert info.outputs == ("logits", "embedding")
    engine.close()


def test_batches_larger_than_the_plan_s_go_in_parts_and_come_back_in_order(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install()
    engine = _open(files, folder)
    outputs = engine.run(_images(*range(37)))
    assert gpu.batches == [1, 16, 16, 5]
    np.testing.assert_array_equal(outputs["logits"][:, 0, 0, 0], np.arange(37))
    engine.close()


def test_one_thread_owns_the_gpu_and_every_caller_gets_its_own_answer(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install()
    engine = _open(files, folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda grey: engine.run(_images(grey))["logits"], range(100)))
    np.testing.assert_array_equal([logits[0, 0, 0, 0] for logits in found], np.arange(100))
    engine.close()
    engine.close()
    assert gpu.calls[-1] == "free"
    assert gpu.calls.count("free") == 1
    assert gpu.threads == {"tensorrt"}
    with pytest.raises(EngineError, match="closed"):
        engine.run(_images(1))


def test_a_run_that_fails_is_an_engine_error_and_the_next_one_works(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install()
    engine = _open(files, folder)
    gpu.fails = True
    with pytest.raises(EngineError, match="could not start"):
        engine.run(_images(1))
    gpu.fails = False
    assert engine.run(_images(3))["logits"][0, 0, 0, 0] == 3
    with pytest.raises(ValueError, match="images must"):
        engine.run(np.zeros((1, 1, 32, 64), np.uint8))
    engine.close()


def _corrupt(folder: Path) -> None:
    (folder / "model.plan").write_bytes(b"plam")


def _no_manifest(folder: Path) -> None:
    (folder / manifest.FILE_NAME).unlink()


def _change(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: manifest.write(folder, replace(manifest.read(folder), **changes)) and None


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "corrupt plan": (_corrupt, "damaged or was changed"),
    "missing plan": (lambda folder: (folder / "model.plan").unlink(), "not there"),
    "missing manifest": (_no_manifest, "no manifest"),
    "wrong weights": (_change(weights_sha256="f" * 64), "other weights"),
    "wrong hash": (_change(artefact_sha256="f" * 64), "damaged or was changed"),
    "foreign model": (_change(model="other"), "is of other"),
    "wrong compute capability": (
        _change(compute_capability=("8.7",)),
        r"for compute capability 8\.7, and RTX has 8\.9",
    ),
    "other GPU": (_change(gpu_name="Orin"), "built on Orin"),
    "other version": (_change(runtime_version="8.6.2"), r"version 8\.6\.2, and 10\.3 is here"),
    "failed parity": (_change(parity={"passed": False}), "did not give PyTorch's answer"),
    "other outputs": (_change(outputs={"logits": (-1, 2, 64, 64)}), "not the manifest's"),
    "no plan at all": (
        lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(),
        "no tensorrt plan",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED)
def test_a_plan_that_does_not_fit_is_refused_with_the_reason_and_auto_falls_back(
    spoil: Callable[[Path], None],
    reason: str,
    files: ModelFiles,
    folder: Path,
    install: Callable[..., FakeGpu],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = install()
    spoil(folder)
    with pytest.raises(EngineUnavailable, match=reason):
        _open(files, folder)
    assert gpu.calls.count("stream") == gpu.calls.count("free")
    _use_folder(monkeypatch, folder)
    monkeypatch.setattr(select, "ranking", lambda: ("tensorrt", "onnxruntime"))
    choice = choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend == "onnxruntime"
    assert [entry.name for entry in choice.skipped] == ["tensorrt"]


def test_auto_takes_a_plan_that_fits(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    _use_folder(monkeypatch, folder)
    choice = choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend == "tensorrt"


def _use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `auto` look for plans beside this one, and count TensorRT as installed."""
    built = folder.parent.parent
    importable = select._importable
    monkeypatch.setattr(select, "_importable", lambda module: module == "tensorrt" or importable(module))
    monkeypatch.setattr(select, "fitting_plan", lambda *given: plans.fitting_plan(*given, built=built))
    opening = TensorRtEngine.__init__
    monkeypatch.setattr(
        TensorRtEngine, "__init__", lambda self, model, **options: opening(self, model, built=built, **options)
    )


def test_a_plan_that_tensorrt_does_not_open_is_refused(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install(readable=False)
    with pytest.raises(EngineUnavailable, match="not in this one"):
        _open(files, folder)
    assert gpu.calls[-1] == "free"
    with pytest.raises(EngineUnavailable, match="not int8"):
        _open(files, folder, precision="int8")
    with pytest.raises(EngineUnavailable, match="no tensorrt plan was built"):
        _open(files, folder, precision="fp32")
    with pytest.raises(EngineUnavailable, match="cannot name a folder"):
        _open(replace(files, name="../tiny"), folder)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
        ("raise ImportError('libnvinfer.so.10 is not there')", "libnvinfer"),
        ("{deserialize} None", r"runtime_for_test 10\.3 refuses .*another GPU"),
        ("{deserialize} 1", None),
    ],
    ids=["crash", "library missing", "refusal", "good"],
)
def test_a_plan_is_first_opened_in_a_process_of_its_own(
    program: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = "class Runtime:\n    def __init__(self, logger): ...\n    def deserialize_cuda_engine(self, plan): return"
    module = "__version__ = '10.3'\nclass Logger:\n    ERROR = 1\n    def __init__(self, level): ...\n"
    (tmp_path / "runtime_for_test.py").write_text(module + program.replace("{deserialize}", opens))
    (tmp_path / "model.plan").write_bytes(b"plan")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if reason is None:
        assert check_plan("runtime_for_test", tmp_path / "model.plan") == "10.3"
    else:
        with pytest.raises(EngineUnavailable, match=reason):
            check_plan("runtime_for_test", tmp_path / "model.plan")


def test_without_a_driver_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    with pytest.raises(EngineUnavailable, match="no NVIDIA driver"):
        first_gpu()


def test_a_driver_without_a_gpu_gives_its_error_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
            return 100

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Driver())
    with pytest.raises(EngineUnavailable, match="CUDA error 100"):
        first_gpu()
