"""ONNX Runtime's GPU providers, with fakes of the package and the driver: which is asked for, with which options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines import cuda, onnxruntime_engine, select, verdicts
from engines.base import EngineRefused, EngineUnavailable
from engines.cuda import Gpu
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.select import choose
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

    def disable_fallback(self) -> None:
        self.falls_back = False


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
def test_a_run_that_fails_does_not_go_on_elsewhere(files: ModelFiles, tmp_path: Path) -> None:
    assert OnnxRuntimeEngine(files, built=tmp_path)._session.falls_back is False


@pytest.mark.usefixtures("fake")
def test_fp32_runs_on_cuda_without_tf32(files: ModelFiles, tmp_path: Path) -> None:
    info = OnnxRuntimeEngine(files, built=tmp_path).info
    assert (info.device, info.precision) == ("CUDA (RTX)", "fp32")
    (name, options), last = FakeSession.asked
    assert (name, options["use_tf32"], last) == (ALL[1], "0", ALL[2])


def test_libraries_of_pip_are_loaded_before_a_gpu_is_used_and_only_then(
    files: ModelFiles, tmp_path: Path, fake: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    order: list[str] = []
    fake.setattr(onnxruntime, "preload_dlls", lambda: order.append("libraries"), raising=False)
    fake.setattr(FakeSession, "get_outputs", lambda self: order.append("session") or [SimpleNamespace(name="logits")])
    OnnxRuntimeEngine(files, device="cpu", built=tmp_path)
    OnnxRuntimeEngine(files, built=tmp_path)
    assert order == ["session", "libraries", "session"]


@pytest.mark.usefixtures("fake")
def test_fp16_runs_in_tensorrt_which_keeps_its_plans_in_the_built_folder(files: ModelFiles, tmp_path: Path) -> None:
    info = OnnxRuntimeEngine(files, precision="fp16", built=tmp_path, unverified=True).info
    assert (info.device, info.precision) == ("TensorRT (RTX)", "fp16")
    name, options = FakeSession.asked[0]
    assert (name, options["trt_fp16_enable"]) == (ALL[0], "True")
    shapes = [options[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")]
    assert shapes == ["images:1x1x64x64", "images:1x1x64x64", "images:16x1x64x64"]
    folder = Path(options["trt_engine_cache_path"])
    assert folder.parent == tmp_path / "tiny" / "onnxruntime-fp16"
    assert folder.name == f"{files.sha256[:12]}-{info.runtime_version}-RTX"
    assert folder.is_dir()


def test_plans_of_other_weights_versions_and_gpus_are_kept_apart(
    files: ModelFiles, tmp_path: Path, fake: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def folder() -> str:
        OnnxRuntimeEngine(files, precision="fp16", built=tmp_path, unverified=True)
        return str(FakeSession.asked[0][1]["trt_engine_cache_path"])

    found = [folder()]
    fake.setattr(cuda, "first_gpu", lambda: Gpu("NVIDIA RTX A2000 / 12GB", "8.6"))
    found.append(folder())
    fake.setattr(onnxruntime, "__version__", "0.1")
    found.append(folder())
    fake.setattr(onnxruntime_engine, "usable_graph", lambda model: model.graph)
    files = replace(files, sha256="0" * 64)
    found.append(folder())
    assert len(set(found)) == 4


@pytest.mark.usefixtures("fake")
def test_fp16_is_refused_until_it_was_verified_on_this_gpu(files: ModelFiles, tmp_path: Path) -> None:
    def opened() -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(files, precision="fp16", built=tmp_path)

    FakeSession.asked = []
    with pytest.raises(
        EngineRefused, match=r"not verified here; `python -m export verify --model tiny\.safetensors --"
    ):
        opened()
    assert FakeSession.asked == []
    info = OnnxRuntimeEngine(files, precision="fp16", built=tmp_path, unverified=True).info
    facts = {"model_sha256": files.sha256, "runtime_version": info.runtime_version, "device": info.device}
    for spoilt in ({"passed": False}, {"passed": None}, {"passed": True, "device": "TensorRT (another)"}):
        verdicts.write(tmp_path / "tiny" / "onnxruntime-fp16", {**facts, **spoilt})
        with pytest.raises(EngineRefused, match="not verified here"):
            opened()
    verdicts.write(tmp_path / "tiny" / "onnxruntime-fp16", {**facts, "passed": True})
    assert opened().info.device == "TensorRT (RTX)"


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
    info = OnnxRuntimeEngine(files, built=tmp_path).info
    assert info.device == "CPU"
    assert info.notes == ("runs on the CPU, since onnxruntime's CUDA provider did not start on this machine",)
    with pytest.raises(EngineUnavailable, match="CUDA provider did not start"):
        OnnxRuntimeEngine(files, device="cuda", built=tmp_path)
    with pytest.raises(EngineUnavailable, match="TensorRT provider did not start"):
        OnnxRuntimeEngine(files, precision="fp16", built=tmp_path, unverified=True)


def test_a_package_without_the_provider_is_named(files: ModelFiles, tmp_path: Path, fake: pytest.MonkeyPatch) -> None:
    fake.setattr("onnxruntime.get_available_providers", lambda: ALL[2:])
    with pytest.raises(EngineUnavailable, match="onnxruntime-gpu"):
        OnnxRuntimeEngine(files, precision="fp16", built=tmp_path)
    with pytest.raises(EngineUnavailable, match="fp32"):
        OnnxRuntimeEngine(files, precision="bf16", built=tmp_path)


def test_auto_takes_openvino_first_where_cuda_does_not_start(files: ModelFiles, fake: pytest.MonkeyPatch) -> None:
    fake.setattr(FakeSession, "start", 1)
    fake.setattr(select, "ranking", lambda measured=(): ("onnxruntime", "openvino", "pytorch"))
    choice = choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend == "openvino"
    assert [(entry.name, entry.reason, entry.refused) for entry in choice.skipped] == [
        ("onnxruntime", "runs on the CPU, since onnxruntime's CUDA provider did not start on this machine", True)
    ]
    assert choose("onnxruntime", files).engine.info.device == "CPU", "by name it runs where it can"


def test_without_openvino_auto_comes_back_to_onnxruntime_on_the_cpu(
    files: ModelFiles, fake: pytest.MonkeyPatch
) -> None:
    fake.setattr(FakeSession, "start", 1)
    fake.setattr(select, "ranking", lambda measured=(): ("onnxruntime", "openvino", "pytorch"))
    importable = select._importable
    fake.setattr(select, "_importable", lambda module: module != "openvino" and importable(module))
    choice = choose("auto", files)
    assert (choice.engine.info.backend, choice.engine.info.device) == ("onnxruntime", "CPU")
    assert [entry.name for entry in choice.skipped] == ["onnxruntime", "openvino"]
