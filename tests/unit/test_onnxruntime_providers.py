"""ONNX Runtime's GPU providers, with fakes of the package and the driver: which is asked for, with which options."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines import cuda
from engines.base import EngineUnavailable
from engines.cuda import Gpu
from engines.onnxruntime_engine import OnnxRuntimeEngine
from sgmsnet.checkpoint import ModelFiles, find

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class FakeSession:
    asked: list[Any]
    start: int = 0
    """How many of the first providers fail to start."""

    def __init__(self, path: str, options: Any, *, providers: list[Any]) -> None:
        FakeSession.asked = providers

    def get_providers(self) -> list[str]:
        names = [entry if isinstance(entry, str) else entry[0] for entry in self.asked]
        return names[self.start :]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="logits")]


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    monkeypatch.setattr(FakeSession, "start", 0)
    return monkeypatch


@pytest.mark.usefixtures("fake")
def test_fp32_runs_on_cuda_without_tf32(files: ModelFiles, tmp_path: Path) -> None:
    info = OnnxRuntimeEngine(files, built=tmp_path).info
    assert (info.device, info.precision) == ("CUDA (RTX)", "fp32")
    (name, options), last = FakeSession.asked
    assert (name, options["use_tf32"], last) == (ALL[1], "0", ALL[2])


@pytest.mark.usefixtures("fake")
def test_fp16_runs_in_tensorrt_which_keeps_its_plans_in_the_built_folder(files: ModelFiles, tmp_path: Path) -> None:
    info = OnnxRuntimeEngine(files, precision="fp16", built=tmp_path).info
    assert (info.device, info.precision) == ("TensorRT (RTX)", "fp16")
    name, options = FakeSession.asked[0]
    assert (name, options["trt_fp16_enable"]) == (ALL[0], "True")
    assert options["trt_engine_cache_path"] == str(tmp_path / "tiny" / "onnxruntime-fp16")
    assert Path(options["trt_engine_cache_path"]).is_dir()


@pytest.mark.usefixtures("fake")
def test_the_cpu_is_taken_when_it_is_asked_for(files: ModelFiles, tmp_path: Path) -> None:
    assert OnnxRuntimeEngine(files, device="cpu", built=tmp_path).info.device == "CPU"
    assert FakeSession.asked == ALL[2:]
    with pytest.raises(EngineUnavailable, match="fp16 needs the TensorRT provider"):
        OnnxRuntimeEngine(files, device="cpu", precision="fp16", built=tmp_path)


def test_without_a_driver_no_gpu_provider_is_started(
    files: ModelFiles, tmp_path: Path, fake: pytest.MonkeyPatch
) -> None:
    def absent() -> Gpu:
        raise EngineUnavailable("this machine has no NVIDIA driver")

    fake.setattr(cuda, "first_gpu", absent)
    assert OnnxRuntimeEngine(files, built=tmp_path).info.device == "CPU"
    assert FakeSession.asked == ALL[2:]
    for options in ({"device": "cuda"}, {"precision": "fp16"}):
        with pytest.raises(EngineUnavailable, match="no NVIDIA driver"):
            OnnxRuntimeEngine(files, built=tmp_path, **options)  # type: ignore[arg-type]


def test_a_provider_that_does_not_start_gives_way_to_the_cpu_only_where_it_may(
    files: ModelFiles, tmp_path: Path, fake: pytest.MonkeyPatch
) -> None:
    fake.setattr(FakeSession, "start", 1)
    assert OnnxRuntimeEngine(files, built=tmp_path).info.device == "CPU"
    with pytest.raises(EngineUnavailable, match="CUDA provider did not start"):
        OnnxRuntimeEngine(files, device="cuda", built=tmp_path)
    with pytest.raises(EngineUnavailable, match="TensorRT provider did not start"):
        OnnxRuntimeEngine(files, precision="fp16", built=tmp_path)


def test_a_package_without_the_provider_is_named(files: ModelFiles, tmp_path: Path, fake: pytest.MonkeyPatch) -> None:
    fake.setattr("onnxruntime.get_available_providers", lambda: ALL[2:])
    with pytest.raises(EngineUnavailable, match="onnxruntime-gpu"):
        OnnxRuntimeEngine(files, precision="fp16", built=tmp_path)
    with pytest.raises(EngineUnavailable, match="fp32"):
        OnnxRuntimeEngine(files, precision="bf16", built=tmp_path)
