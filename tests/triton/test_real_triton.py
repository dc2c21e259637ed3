"""A real Triton: the same answers, batches put together, and no wrong answer when the server is killed under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engines.base import EngineError, EngineUnavailable
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.server_address import parse_url
from engines.triton_engine import TritonEngine
from export import to_triton
from export.verify import verify
from sgmsnet.checkpoint import ModelFiles, find
from tests.triton.server import Triton, environment, repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture(scope="module")
def server(files: ModelFiles, example_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    venv = environment()
    folder = tmp_path_factory.mktemp("triton")
    serving = to_triton.Serving(platform="python", batch_max=8, queue_delay_ms=20)
    triton = Triton(venv, repository(files, folder, example_images[0], serving), folder)
    triton.start()
    yield triton
    triton.kill()


@pytest.fixture(params=["http", "grpc"])
def engine(request: pytest.FixtureRequest, server: Triton, files: ModelFiles) -> Iterator[TritonEngine]:
    opened = TritonEngine(files, address=parse_url(getattr(server, request.param)), timeout_s=20)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def expected(files: ModelFiles, example_images: np.ndarray) -> list[np.ndarray]:
    """Logits of each example alone, from ONNX Runtime in this process."""
    engine = OnnxRuntimeEngine(files, device="cpu")
    logits = [engine.run(example_images[k : k + 1])["logits"] for k in range(len(example_images))]
    engine.close()
    return logits


def test_answers_are_within_the_bound_of_parity(
    engine: TritonEngine, files: ModelFiles, example_images: np.ndarray
) -> None:
    parity = verify(files, engine, example_images)
    assert parity.passed, parity
    assert engine.info.runtime_version.startswith("triton 2.")
    outputs = engine.run(example_images[:3])
    assert tuple(outputs) == files.config.outputs
    assert all(value.dtype == np.float32 and len(value) == 3 for value in outputs.values())


def test_requests_of_many_threads_are_put_together_to_batches(
    engine: TritonEngine, server: Triton, example_images: np.ndarray, expected: list[np.ndarray]
) -> None:
    before = server.statistics("tiny")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: engine.run(example_images[k % 4 : k % 4 + 1])["logits"], range(64)))
    for k, logits in enumerate(found):
        np.testing.assert_allclose(logits, expected[k % 4], rtol=0, atol=1e-4)
    after = server.statistics("tiny")
    images, runs = (int(after[name]) - int(before[name]) for name in ("inference_count", "execution_count"))
    assert images == 64
    assert runs < 48
    assert max(int(entry["batch_size"]) for entry in after["batch_stats"]) > 1


def test_the_server_tells_what_it_has_computed(engine: TritonEngine, example_images: np.ndarray) -> None:
    before = engine.spent()
    for _ in range(3):
        engine.run(example_images[:1])
    after = engine.spent()
    assert before is not None
    assert after is not None
    assert after.requests - before.requests == 3
    assert after.compute_ms > before.compute_ms
    assert after.queue_ms > before.queue_ms


def test_a_killed_server_gives_errors_and_no_wrong_answers_and_is_found_again(
    engine: TritonEngine, server: Triton, example_images: np.ndarray, expected: list[np.ndarray]
) -> None:
    right: list[float] = []
    wrong: list[float] = []
    told: set[str] = set()
    stop = threading.Event()

    def ask(k: int) -> None:
        while not stop.is_set():
            try:
                logits = engine.run(example_images[k : k + 1])["logits"]
            except EngineError as error:
                told.add(str(error))
                time.sleep(0.05)
                continue
            (right if np.allclose(logits, expected[k], rtol=0, atol=1e-4) else wrong).append(time.monotonic())

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        server.kill()
        time.sleep(1)
        server.start()
        returned = time.monotonic()
        time.sleep(5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert told
    assert all("\n" not in sentence for sentence in told)
    assert any(moment < returned - 1 for moment in right)
    assert min((moment for moment in right if moment > returned), default=returned + 99) < returned + 5


def test_a_model_that_the_server_has_not_is_told(server: Triton, files: ModelFiles) -> None:
    from dataclasses import replace

    for url in (server.http, server.grpc):
        with pytest.raises(EngineUnavailable, match="unknown model"):
            TritonEngine(replace(files, name="other"), address=parse_url(url))
