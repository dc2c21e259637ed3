"""The TensorRT engine on a GPU made of fakes: order of calls, CUDA graphs, batches, one thread, runs that fail."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import manifest
from engines.base import EngineError
from export.plan import PlanRequest, build_plan
from sgmsnet.checkpoint import ModelFiles
from tests.fake_gpu import FakeGpu
from tests.fake_tensorrt import fake_builder
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
    kernels = ["cache", "cache of nothing"][batch > 1 :] if version == "rtx" else []
    return [
        *kernels,
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


def test_kernels_that_rtx_compiled_are_kept_for_the_next_process(
    files: ModelFiles, folder: Path, install: Callable[..., FakeGpu]
) -> None:
    _change(runtime_version="rtx")(folder)
    for expected in ("cache of nothing", "cache of kernels"):
        gpu = install(version="rtx")
        _open(files, folder).close()
        assert [call for call in gpu.calls if call.startswith("cache of")] == [expected]
    kept = next(folder.glob("*.kernels"))
    kept.write_bytes(b"of another GPU")
    gpu = install(version="rtx")
    _open(files, folder).close()
    assert "cache of nothing" in gpu.calls
    assert kept.read_bytes() == b"kernels"
    assert not list(folder.glob("*.kernels.*"))


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
        ("cudaStreamEndCapture", ["capture ThreadLocal", *ONE_RUN, "end capture", "last error"]),
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
