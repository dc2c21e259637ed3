"""A server as an engine: what goes wrong with a server is told in one sentence, and a server that returns is found."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import select, v2_http
from engines.base import EngineError, EngineUnavailable
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.server_address import URL, Address, parse_url
from engines.triton_engine import TIMEOUT, TritonEngine
from sgmsnet.checkpoint import ModelFiles, find
from tests.oip_server import Misbehaviour, serving


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture(scope="module")
def behind(files: ModelFiles) -> Iterator[OnnxRuntimeEngine]:
    """The engine behind the server."""
    pytest.importorskip("onnxruntime")
    engine = OnnxRuntimeEngine(files, device="cpu")
    yield engine
    engine.close()


@pytest.fixture
def how() -> Misbehaviour:
    return Misbehaviour()


@pytest.fixture
def url(behind: OnnxRuntimeEngine, how: Misbehaviour) -> Iterator[str]:
    with serving(behind, how=how) as where:
        yield where


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node7:9000", Address("node7", 9000, grpc=False, tls=False)),
        ("node7", Address("node7", 8000, grpc=False, tls=False)),
        ("grpc://node7", Address("node7", 8001, grpc=True, tls=False)),
        ("https://triton.example/", Address("triton.example", 443, grpc=False, tls=True)),
        ("grpcs://[::1]:5", Address("::1", 5, grpc=True, tls=True)),
    ],
)
def test_urls_say_where_and_how(text: str, address: Address) -> None:
    assert parse_url(text) == address


@pytest.mark.parametrize("text", ["ftp://a:1", "a:b", "a:99999", "http://a/path", ":80", "http://"])
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(EngineUnavailable, match="host:port"):
        parse_url(text)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("config", [True, False])
def test_the_server_s_answers_are_those_of_the_engine_behind_it(
    files: ModelFiles, behind: OnnxRuntimeEngine, url: str, how: Misbehaviour, example_images: np.ndarray,
    binary: bool, config: bool,
) -> None:  # fmt: skip
    how.binary, how.config = binary, config
    engine = TritonEngine(files, address=parse_url(url))
    found, expected = engine.run(example_images[:2]), behind.run(example_images[:2])
    engine.close()
    assert tuple(found) == tuple(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert (engine.info.backend, engine.info.precision) == ("triton", "fp32")
    assert engine.info.runtime_version == "stand-in 1.0"
    assert url in engine.info.device


def test_batches_larger_than_the_server_s_go_in_equal_parts(
    files: ModelFiles, behind: OnnxRuntimeEngine, url: str, how: Misbehaviour, example_images: np.ndarray
) -> None:
    engine = TritonEngine(files, address=parse_url(url))
    how.batches.clear()
    found = engine.run(example_images)
    engine.close()
    assert how.batches == [2, 2]
    np.testing.assert_allclose(found["logits"], behind.run(example_images)["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"refuse": "out of memory"}, "refused: out of memory"),
        ({"cut": True}, "not whole"),
        ({"hang_up": True}, "cannot be reached"),
        ({"delay_s": 1.0}, r"did not answer within 0\.3 s"),
    ],
)
def test_a_run_that_fails_is_told_and_the_next_one_works(
    files: ModelFiles, url: str, how: Misbehaviour, example_images: np.ndarray, change: dict[str, object], sentence: str
) -> None:
    engine = TritonEngine(files, address=parse_url(url), timeout_s=0.3)
    good = vars(Misbehaviour())
    vars(how).update(change)
    with pytest.raises(EngineError, match=sentence) as caught:
        engine.run(example_images[:1])
    assert "\n" not in str(caught.value)
    vars(how).update({name: good[name] for name in change})
    assert engine.run(example_images[:1])["logits"].shape == (1, 2, 64, 64)
    engine.close()


def test_a_server_that_ends_every_connection_has_as_long_to_answer(
    files: ModelFiles, url: str, how: Misbehaviour, example_images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v2_http, "CONNECT_S", 0.2)  # to connect; not to answer
    how.closes = True
    engine = TritonEngine(files, address=parse_url(url), timeout_s=30)
    engine.run(example_images[:1])
    how.delay_s = 0.6
    assert engine.run(example_images[:1])["logits"].shape == (1, 2, 64, 64)
    engine.close()


def test_a_server_with_another_model_is_refused_with_the_reason(files: ModelFiles, url: str, how: Misbehaviour) -> None:
    address = parse_url(url)
    for changed, sentence in [
        (replace(files, name="other"), "no /v2/models/other"),
        (replace(files, sha256="0" * 64), "other weights"),
        (replace(files, config=replace(files.config, height=96)), "does not take uint8 images of 96 x 64"),
        (replace(files, config=replace(files.config, classes=("lungs",))), "logits of 1 classes"),
    ]:
        with pytest.raises(EngineUnavailable, match=sentence):
            TritonEngine(changed, address=address)
    with pytest.raises(EngineUnavailable, match="runs fp32, not fp16"):
        TritonEngine(files, address=address, precision="fp16")
    how.refuse = "the stub is gone"  # as Triton answers while it still says that it is ready
    with pytest.raises(EngineUnavailable, match="the stub is gone"):
        TritonEngine(files, address=address)


def test_what_is_no_such_server_is_told(files: ModelFiles) -> None:
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:1 cannot be reached: Connection refused"):
        TritonEngine(files, address=parse_url("127.0.0.1:1"))


def test_it_recovers_when_the_server_returns_and_never_answers_wrong(
    files: ModelFiles, behind: OnnxRuntimeEngine, example_images: np.ndarray
) -> None:
    expected = [behind.run(example_images[k : k + 1])["logits"] for k in range(4)]
    right, told, wrong = [], [], []
    stop = threading.Event()
    with ExitStack() as first:
        url = first.enter_context(serving(behind))
        engine = TritonEngine(files, address=parse_url(url))

        def ask(k: int) -> None:
            while not stop.is_set():
                try:
                    logits = engine.run(example_images[k : k + 1])["logits"]
                except EngineError as error:
                    told.append(str(error))
                    time.sleep(0.01)
                    continue
                (right if np.array_equal(logits, expected[k]) else wrong).append(time.monotonic())

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
    time.sleep(0.2)
    with serving(behind, port=int(url.rpartition(":")[2])):
        returned = time.monotonic()
        time.sleep(0.7)
        stop.set()
        for thread in threads:
            thread.join()
    engine.close()
    assert not wrong
    assert told
    assert all("cannot be reached" in sentence for sentence in told)
    assert min(moment for moment in right if moment > returned) < returned + 0.6


def test_it_is_part_of_auto_only_when_a_server_was_named(
    files: ModelFiles, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(URL, raising=False)
    found = {entry.name: entry for entry in select.probe(files)}["triton"]
    assert not found.available
    assert "--triton-url" in found.reason
    with pytest.raises(EngineUnavailable, match="no server was named"):
        select.open_engine("triton", files)
    monkeypatch.setenv(URL, url)
    choice = select.choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend == "triton"
    monkeypatch.setenv(URL, "127.0.0.1:1")
    choice = select.choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend != "triton"
    assert "cannot be reached" in choice.skipped[0].reason


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_timeout_that_is_none_is_refused(files: ModelFiles, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(TIMEOUT, text)
    with pytest.raises(EngineUnavailable, match=TIMEOUT):
        TritonEngine(files, address=parse_url("127.0.0.1:1"))
