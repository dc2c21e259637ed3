"""Plans that the TensorRT engine does not open: a reason for every one, and which engine or plan is taken instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from engines import manifest, plans, select, tensorrt_engine, verdicts
from engines.base import EngineUnavailable
from engines.select import choose, open_unverified
from engines.tensorrt_check import check_plan
from engines.tensorrt_engine import TensorRtEngine
from sgmsnet.checkpoint import ModelFiles
from tests.fake_gpu import REFUSES, FakeGpu, runtime_for_children
from tests.needs import ROOT
from tests.unit.fake_plans import change as _change
from tests.unit.fake_plans import open_plan as _open
from tests.unit.fake_plans import put_gpu, write_plan


@pytest.fixture
def folder(files: ModelFiles, tmp_path: Path) -> Path:
    return write_plan(files, tmp_path)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeGpu]:
    return partial(put_gpu, monkeypatch)


def _corrupt(folder: Path) -> None:
    (folder / "model.plan").write_bytes(b"plam")


def _no_manifest(folder: Path) -> None:
    (folder / manifest.FILE_NAME).unlink()


OUT_OF_BOUNDS = "the mean mask IoU is 0.9312, 0.995 is required"
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
    "other module": (_change(multiprocessors=16), r"built on 16 multiprocessors, and this RTX has 8"),
    "other version": (_change(runtime_version="8.6.2"), r"version 8\.6\.2, and 10\.3 is here"),
    "failed parity": (_change(parity={"passed": False, "refused": [OUT_OF_BOUNDS]}), "did not give PyTorch's answer"),
    "other outputs": (_change(outputs={"logits": (-1, 2, 64, 64)}), "not the manifest's"),
    "no plan at all": (
        lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(),
        "no tensorrt plan",
    ),
}


def _assert_auto_takes_the_next(files: ModelFiles, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_folder(monkeypatch, folder)
    monkeypatch.setattr(select, "ranking", lambda measured=(): ("tensorrt", "onnxruntime"))
    choice = choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend == "onnxruntime"
    assert [entry.name for entry in choice.skipped] == ["tensorrt"]


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
    assert not gpu.cuda.alive
    _assert_auto_takes_the_next(files, folder, monkeypatch)


def test_a_tensorrt_with_other_calls_leaves_the_place_to_the_next_engine(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = install()
    monkeypatch.setattr(gpu.module, "Runtime", lambda: None)  # takes no logger
    with pytest.raises(EngineUnavailable, match=r"takes other calls than 8\.6 to 11 do: .*positional argument"):
        _open(files, folder)
    assert not gpu.cuda.alive
    _assert_auto_takes_the_next(files, folder, monkeypatch)


@pytest.mark.parametrize("case", ["other version", "wrong compute capability", "other module", "failed parity"])
def test_the_docs_have_the_sentence(
    case: str, files: ModelFiles, folder: Path, install: Callable[..., FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setattr(tensorrt_engine, "check_plan", check_plan)  # in a real child process
    runtime_for_children(monkeypatch, folder.parent, "tensorrt", REFUSES)
    SPOILED[case][0](folder)
    with pytest.raises(EngineUnavailable) as caught:
        _open(files, folder)
    said = str(caught.value).replace(" --model tiny.safetensors", "")  # the docs' model is the default one
    assert f'"{said}"' in (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")


def _failed_verdict(folder: Path) -> None:
    made = {"model_sha256": manifest.read(folder).weights_sha256, "runtime_version": "10.3", "device": "RTX"}
    verdicts.write(folder, {**made, "passed": False, "refused": ["one of the first plan"]})


FOR_AN_FP32_PLAN = {
    **{case: SPOILED[case][0] for case in ("corrupt plan", "missing manifest", "failed parity", "other outputs")},
    "other version": SPOILED["other version"][0],
    "failed verdict": _failed_verdict,
}


@pytest.mark.parametrize("spoil", FOR_AN_FP32_PLAN.values(), ids=FOR_AN_FP32_PLAN)
def test_an_fp16_plan_that_cannot_be_used_leaves_the_place_to_one_of_fp32(
    spoil: Callable[[Path], None],
    files: ModelFiles,
    folder: Path,
    install: Callable[..., FakeGpu],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install()
    full = folder.with_name("tensorrt-fp32")
    shutil.copytree(folder, full)
    _change(precision="fp32")(full)
    spoil(folder)
    _use_folder(monkeypatch, folder)
    engine = choose("tensorrt", files).engine
    engine.close()
    assert engine.info.precision == "fp32"
    with pytest.raises(EngineUnavailable):
        _open(files, folder, precision="fp16")
    _no_manifest(full)
    with pytest.raises(EngineUnavailable, match=r"^fp16: .*; fp32: there is no manifest in .*; `python -m export"):
        _open(files, folder)


def test_a_plan_that_failed_verification_is_opened_to_verify_it_again(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    SPOILED["failed parity"][0](folder)
    _failed_verdict(folder)
    _use_folder(monkeypatch, folder)
    with pytest.raises(EngineUnavailable, match=OUT_OF_BOUNDS):
        choose("tensorrt", files)
    engine = open_unverified("tensorrt", files, built=folder.parent.parent)
    engine.close()
    assert engine.info.precision == "fp16"
    _corrupt(folder)
    with pytest.raises(EngineUnavailable, match="damaged or was changed"):
        open_unverified("tensorrt", files, built=folder.parent.parent)


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
        TensorRtEngine, "__init__", lambda self, model, **options: opening(self, model, **{"built": built, **options})
    )


def test_a_plan_that_tensorrt_does_not_open_is_refused(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install(readable=False)
    with pytest.raises(EngineUnavailable, match="not in this one"):
        _open(files, folder)
    assert not gpu.cuda.alive
    with pytest.raises(EngineUnavailable, match="not int8"):
        _open(files, folder, precision="int8")
    with pytest.raises(EngineUnavailable, match="no tensorrt plan was built"):
        _open(files, folder, precision="fp32")
    with pytest.raises(EngineUnavailable, match="cannot name a folder"):
        _open(replace(files, name="../tiny"), folder)
