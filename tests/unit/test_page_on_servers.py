"""The page in front of servers: it hands on as many requests at once as it was told, and keeps addresses to itself."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

import app
from engines.base import EngineError, EngineUnavailable
from engines.server_address import HIDDEN, parse_url
from engines.triton_engine import TritonEngine
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.web import rest
from tests.fakes import FakeEngine, draw_xray, info_with
from tests.oip_server import Misbehaviour, serving
from tests.security.serving import fake_desk


class Meeting(FakeEngine):
    """Answers X-rays only when so many are here together."""

    def __init__(self, files: ModelFiles, count: int) -> None:
        super().__init__(info_with(model=files.name, model_sha256=files.sha256, height=64, width=64))
        self._here = threading.Barrier(count)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if images.any():
            try:
                self._here.wait(20)
            except threading.BrokenBarrierError:
                raise EngineError("the others did not come") from None
        return super().run(images)


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


def test_eight_requests_reach_the_servers_together(files: ModelFiles) -> None:
    buffer = io.BytesIO()
    Image.fromarray(draw_xray()).save(buffer, "png")
    with serving(Meeting(files, 8)) as url:
        server = FastAPI()
        rest.attach(server, fake_desk(at_once=8, triton=TritonEngine(files, address=parse_url(url))))
        client = TestClient(server)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(client.post, "/v1/segment", files={"file": buffer.getvalue()}) for _ in range(8)]
            answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200] * 8, answers[0].text
    assert {answer.json()["engine"] for answer in answers} == {"triton"}


@pytest.mark.parametrize(("line", "count"), [("", 2), ("--engine triton", 16), ("--engine triton --at-once 5", 5)])
def test_servers_are_asked_more_at_once_than_this_machine(line: str, count: int) -> None:
    assert app.at_once(app.parse(line.split())) == count


@pytest.fixture
def is_hidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda hidden: monkeypatch.setenv(HIDDEN, "1" if hidden else "")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("hidden", [True, False])
def test_a_server_that_is_gone_is_named_in_the_log_alone(
    files: ModelFiles, is_hidden: Callable[[bool], None], caplog: pytest.LogCaptureFixture, hidden: bool, scheme: str
) -> None:
    if scheme == "grpc":
        pytest.importorskip("tritonclient.grpc")
    is_hidden(hidden)
    with pytest.raises(EngineUnavailable) as told:
        TritonEngine(files, address=parse_url(f"{scheme}://127.0.0.1:1"), timeout_s=3)
    assert ("127.0.0.1" in str(told.value)) is not hidden
    assert ("127.0.0.1:1" in caplog.text) is hidden


@pytest.mark.parametrize("hidden", [True, False])
def test_a_server_s_address_stands_in_no_result_for_strangers(
    files: ModelFiles, is_hidden: Callable[[bool], None], caplog: pytest.LogCaptureFixture, hidden: bool
) -> None:
    is_hidden(hidden)
    how = Misbehaviour()
    with serving(
        FakeEngine(info_with(model=files.name, model_sha256=files.sha256, height=64, width=64)), how=how
    ) as url:
        desk = fake_desk(triton=TritonEngine(files, address=parse_url(url)))
        server = FastAPI()
        rest.attach(server, desk)
        client = TestClient(server)
        told = json.dumps(desk.predict(draw_xray(), name="x", engine="triton").record())
        told += client.get("/v1/models").text
        how.refuse = "out of memory"
        with caplog.at_level(logging.WARNING), pytest.raises(EngineError) as error:
            desk.predict(draw_xray(), name="x", engine="triton")
        told += str(error.value)
    assert "out of memory" in told
    assert (url in told) is not hidden
    assert (url in caplog.text) is hidden
