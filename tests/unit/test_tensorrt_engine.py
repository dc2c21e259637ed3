"""The TensorRT engine on a GPU made of fakes: order of calls, one thread, a reason for every plan refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import cuda, manifest, plans, select, tensorrt_engine, verdicts
from engines.base import EngineError, EngineUnavailable
from engines.cuda import Gpu
from engines.select import choose, open_unverified
from engines.tensorrt_check import check_plan
from engines.tensorrt_engine import TensorRtEngine
from export.plan import PlanRequest, build_plan
from sgmsnet.checkpoint import ModelFiles, find
from tests.fake_gpu import REFUSES, FakeGpu, runtime_for_children
from tests.fake_tensorrt import SHARED_PLAN, a_manifest, fake_builder
from tests.needs import ROOT


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def folder(files: ModelFiles, tmp_path: Path) -> Path:
    """A plan with its manifest where the engine looks for it."""
    folder = tmp_path / "tiny" / "tensorrt-fp16"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(SHARED_PLAN)
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
        monkeypatch.setattr(cuda, "_runtime_api", lambda: gpu.cuda)
        monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", compute_capability, 8))
        monkeypatch.setattr(tensorrt_engine, "check_plan", lambda module, plan, built_by: gpu.module.__version__)
        return gpu

    return put


def _open(files: ModelFiles, folder: Path, **options: Any) -> TensorRtEngine:
    return TensorRtEngine(files, runtime="tensorrt", built=folder.parent.parent, **options)


def _images(*greys: int) -> np.ndarray:
    return np.stack([np.full((1, 64, 64), grey, np.uint8) for grey in greys])


ONE_RUN = ["to device", "execute 7", "to host", "to host"]
CONTEXTS = {
    "8.6": ["context without memory", "scratch memory"],
    "10.0": ["context USER_MANAGED", "scratch memory"],
    "10.3": ["context USER_MANAGED", "scratch memory 4096"],
    "11.0": ["context USER_MANAGED", "scratch memory 4096"],
    "rtx": ["context of config USER_MANAGED eager", "scratch memory 4096"],
}


def _first_run(version: str, batch: int) -> list[str]:
    """The calls of a batch size's first run: in its own context, plain, and then captured."""
    return [
        *CONTEXTS[version],
        f"shape images ({batch}, 1, 64, 64)",
        *("address images", "address logits", "address embedding"),
        *(*ONE_RUN, "wait"),
        *(["capturable?"] if version == "rtx" else []),
        *("capture ThreadLocal", *ONE_RUN, "end capture", "instantiate", "destroy graph"),
    ]


@pytest.mark.parametrize("version", CONTEXTS)
def test_the_order_of_calls_of_each_generation(
    version: str, files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    _change(runtime_version=version)(folder)
    gpu = install(version=version)
    engine = _open(files, folder)
    assert gpu.calls == ["stream", "runtime", "deserialize", *_first_run(version, 1)]
    gpu.calls.clear()
    outputs = engine.run(_images(40))
    assert gpu.calls == ["launch 7", "wait"]
    assert {name: value.shape for name, value in outputs.items()} == {"logits": (1, 2, 64, 64), "embedding": (1, 32)}
    assert outputs["logits"][0, 0, 0, 0] == 40
    np.testing.assert_array_equal(outputs["embedding"][0], np.arange(1, 33))
    gpu.calls.clear()
    assert engine.run(_images(1, 2))["logits"][:, 0, 0, 0].tolist() == [1, 2]
    assert gpu.calls == _first_run(version, 2)
    gpu.calls.clear()
    for greys in ((3, 4), (5,), (6, 7)):  # a graph for each batch size, taken again whatever ran between
        assert engine.run(_images(*greys))["logits"][:, 0, 0, 0].tolist() == list(greys)
    assert gpu.calls == ["launch 7", "wait"] * 3
    gpu.calls.clear()
    engine.close()
    frees = ["free"] * 7  # images, logits and embedding on both sides, and the scratch memory
    assert gpu.calls == ["destroy executable", "destroy executable", *frees, "destroy stream"]
    assert not gpu.cuda.alive


def test_info_says_what_runs(files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]) -> None:
    install()
    engine = _open(files, folder)
    engine.close()
    info = engine.info
    assert (info.backend, info.precision, info.device, info.runtime_version) == ("tensorrt", "fp16", "RTX", "10.3")
    assert info.outputs == ("logits", "embedding")
    assert info.notes == ()


@pytest.mark.parametrize(
    ("function", "after"),
    [
        ("cudaStreamBeginCapture", ["capture ThreadLocal"]),
        ("cudaStreamEndCapture", ["capture ThreadLocal", *ONE_RUN, "end capture"]),
        ("cudaGraphInstantiate", ["capture ThreadLocal", *ONE_RUN, "end capture", "instantiate", "destroy graph"]),
    ],
)
def test_where_a_graph_cannot_be_made_runs_go_without_and_info_says_so(
    function: str, after: list[str], files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    gpu = install()
    gpu.cuda.refuses[function] = 900
    engine = _open(files, folder)
    assert gpu.calls[-len(after) :] == after
    reason = f"{function} failed with CUDA error 900"
    assert engine.info.notes == (f"runs without CUDA graphs, since capturing one failed: {reason}",)
    docs = " ".join((ROOT / "docs" / "jetson.md").read_text(encoding="utf-8").split())
    assert engine.info.notes[0].replace(function, "cudaStreamBeginCapture") in docs
    gpu.calls.clear()
    assert engine.run(_images(9))["logits"][0, 0, 0, 0] == 9
    assert gpu.calls == [*ONE_RUN, "wait"]
    gpu.calls.clear()
    assert engine.run(_images(8, 9))["logits"][:, 0, 0, 0].tolist() == [8, 9]
    assert "capture ThreadLocal" not in gpu.calls  # what failed once is not tried again
    engine.close()


def test_a_run_that_fails_while_it_is_captured_leaves_the_stream_usable(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = install()
    begin = gpu.cuda._cudaStreamBeginCapture

    def begin_and_fail(self: object, stream: int, mode: Any) -> None:
        begin(stream, mode)
        gpu.fails = True

    monkeypatch.setattr(type(gpu.cuda), "_cudaStreamBeginCapture", begin_and_fail)
    engine = _open(files, folder)
    gpu.fails = False
    assert gpu.calls[-3:] == ["end capture", "destroy graph", "last error"]
    assert "could not start the run" in engine.info.notes[0]
    assert engine.run(_images(9))["logits"][0, 0, 0, 0] == 9
    engine.close()
    assert not gpu.cuda.alive


def test_a_plan_for_rtx_that_cannot_be_captured_is_not(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    _change(runtime_version="rtx")(folder)
    gpu = install(version="rtx", capturable=False)
    engine = _open(files, folder)
    engine.close()
    assert engine.info.notes == ("runs without CUDA graphs, since capturing one failed: the plan cannot be captured",)
    assert "capture ThreadLocal" not in gpu.calls


def test_graphs_can_be_switched_off(files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]) -> None:
    gpu = install()
    engine = _open(files, folder, cuda_graph=False)
    assert engine.run(_images(9))["logits"][0, 0, 0, 0] == 9
    engine.close()
    assert not [call for call in gpu.calls if "capture" in call or "launch" in call]
    assert engine.info.notes == ()


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
    assert gpu.calls.count("destroy stream") == 1
    assert gpu.threads == {"tensorrt"}
    with pytest.raises(EngineError, match="closed"):
        engine.run(_images(1))


def test_a_run_that_fails_is_an_engine_error_and_the_next_one_works(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = install()
    engine = _open(files, folder)
    gpu.fails = True
    with pytest.raises(EngineError, match="could not start"):
        engine.run(_images(1, 2))
    gpu.fails = False
    assert engine.run(_images(1, 2))["logits"][:, 0, 0, 0].tolist() == [1, 2]
    gpu.cuda.refuses["cudaGraphLaunch"] = 700
    with pytest.raises(EngineError, match="cudaGraphLaunch failed with CUDA error 700"):
        engine.run(_images(1))
    gpu.cuda.refuses.clear()
    assert engine.run(_images(3))["logits"][0, 0, 0, 0] == 3
    with monkeypatch.context() as patch:
        patch.setattr(gpu.cuda, "cudaGraphLaunch", None)
        with pytest.raises(EngineError, match=r"TensorRT failed: .*not callable"):
            engine.run(_images(1))
    with pytest.raises(ValueError, match="images must"):
        engine.run(np.zeros((1, 1, 32, 64), np.uint8))
    engine.close()


def _corrupt(folder: Path) -> None:
    (folder / "model.plan").write_bytes(b"plam")


def _no_manifest(folder: Path) -> None:
    (folder / manifest.FILE_NAME).unlink()


def _change(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: manifest.write(folder, replace(manifest.read(folder), **changes)) and None


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
    assert f'"{caught.value}"' in (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")


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


def test_a_plan_that_was_built_by_8_6_runs_every_batch_size(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    request = PlanRequest(runtime="tensorrt", graph="g.onnx", plan="p", precision="fp16", workspace_mb=64)
    plan = build_plan(fake_builder("8.6")[0], request, progress=lambda phase, percent: None)
    (folder / "model.plan").write_bytes(plan)
    sha256 = manifest.file_sha256(folder / "model.plan")
    _change(runtime_version="8.6", artefact_sha256=sha256)(folder)
    install(version="8.6")
    engine = _open(files, folder)
    assert engine.run(_images(1, 2, 3))["logits"][:, 0, 0, 0].tolist() == [1, 2, 3]
    engine.close()


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
