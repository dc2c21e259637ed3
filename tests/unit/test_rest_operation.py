"""REST in operation: readiness, metrics, uploads that stall, and more callers than it can serve at once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sgmsnet.web import rest
from sgmsnet.web.desk import AT_ONCE, Desk
from tests.fakes import FakeEngine
from tests.unit.rest_calls import CHEST, fake_desk, send, serve


def test_probes_may_ask_for_the_head_alone(client: TestClient) -> None:
    for path in ("/health", "/ready"):
        answer = client.head(path)
        assert (answer.status_code, answer.text) == (200, "")


def test_not_ready_is_503_without_detail_and_the_answer_is_kept() -> None:
    engine = FakeEngine(refuse=0)  # the readiness image is black
    client = serve(fake_desk(engine))
    answers = [client.get("/ready") for _ in range(3)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(503, '{"status":"not ready"}')}
    assert len(engine.batches) == 1


def test_readiness_is_asked_again_after_a_while() -> None:
    engine = FakeEngine()
    ready = rest.Readiness(fake_desk(engine), kept_s=0)
    assert [ready(), ready()] == [True, True]
    assert len(engine.batches) == 2


def test_who_cannot_look_takes_an_old_answer_for_no() -> None:
    class Hangs(FakeEngine):
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            if self.batches:
                began.set()
                assert release.wait(30)
            return super().run(images)

    began, release = threading.Event(), threading.Event()
    ready = rest.Readiness(fake_desk(Hangs()), kept_s=0.1)
    assert ready()
    time.sleep(0.1)
    with ThreadPoolExecutor(1) as pool:
        looks = pool.submit(ready)
        try:
            assert began.wait(30)
            ready._kept_s = 60.0  # what is known is not old yet
            assert ready()
            ready._kept_s = 0.01
            time.sleep(0.05)
            assert not ready()
        finally:
            release.set()
        assert looks.result()


def test_a_server_that_is_about_to_stop_is_not_ready() -> None:
    engine, closing = FakeEngine(), [False]
    app = FastAPI()
    rest.attach(app, fake_desk(engine), closing=lambda: closing[0])
    client = TestClient(app)
    assert client.get("/ready").status_code == 200
    closing[0] = True
    assert (client.get("/ready").status_code, client.get("/health").status_code) == (503, 200)
    assert len(engine.batches) == 1


class Api:
    """/v1/segment without a server: bodies come as slowly as a test wants them to."""

    def __init__(self, desk: Desk, *, reading_each: int | None) -> None:
        self._app = rest.build(desk, reading_each=reading_each)

    async def send(self, client: str, *, stalls: bool = False) -> tuple[int, dict[str, Any]]:
        """Status and answer, for a client by its address."""
        sent: list[Any] = []
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%s\r\n--b--\r\n' % CHEST

        async def receive() -> Any:
            if stalls:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": body, "more_body": False}

        async def take(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/segment",
            "query_string": b"masks=none",
            "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
            "client": (client, 1),
        }
        await self._app(scope, receive, take)
        return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.parametrize("each", [None, 3])
def test_uploads_that_stall_hold_no_place_of_those_that_are_there(each: int | None) -> None:
    async def run() -> Any:
        api = Api(fake_desk(), reading_each=each)
        stalled = [
            asyncio.ensure_future(api.send("192.0.2.1", stalls=True)) for _ in range(AT_ONCE + rest.WAITING_AT_MOST)
        ]
        await asyncio.sleep(0.2)
        try:
            return await api.send("198.51.100.7"), await api.send("192.0.2.1")
        finally:
            for one in stalled:
                one.cancel()
            await asyncio.gather(*stalled, return_exceptions=True)

    honest, same = asyncio.run(run())
    assert honest[0] == 200
    assert same[0] == (200 if each is None else 429)
    if each is not None:
        assert "at once" in same[1]["error"]


def test_more_uploads_than_can_wait_get_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held(FakeEngine):
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            assert release.wait(30)
            return super().run(images)

    release = threading.Event()
    monkeypatch.setattr(rest, "WAITING_AT_MOST", 1)

    async def run() -> list[int]:
        api = Api(fake_desk(Held()), reading_each=None)
        asked = [asyncio.ensure_future(api.send("192.0.2.1")) for _ in range(AT_ONCE + 4)]
        while sum(one.done() for one in asked) < 3:
            await asyncio.sleep(0.01)
        release.set()
        return sorted([(await one)[0] for one in asked])

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [200] * (AT_ONCE + 1) + [503] * 3


def test_metrics_count_requests_errors_and_stages() -> None:
    client = serve(fake_desk())
    send(client)
    send(client, b"no image")
    text = client.get("/metrics").text
    for line in (
        'sgmsnet_requests_total{interface="rest"} 2.0',
        'sgmsnet_errors_total{interface="rest",reason="refused"} 1.0',
        'sgmsnet_stage_seconds_count{engine="fake",stage="run"} 1.0',
        'sgmsnet_in_flight{interface="rest"} 0.0',
    ):
        assert line in text.splitlines()


def test_metrics_say_how_many_requests_wait() -> None:
    class Held(FakeEngine):
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            assert release.wait(30)
            return super().run(images)

    release = threading.Event()
    with serve(fake_desk(Held())) as client, ThreadPoolExecutor(AT_ONCE + 3) as pool:
        waiting = 'sgmsnet_waiting{interface="rest"} '
        asked = [pool.submit(send, client) for _ in range(AT_ONCE + 3)]
        try:
            give_up = time.monotonic() + 20
            while f"{waiting}3.0" not in (text := client.get("/metrics").text):
                assert time.monotonic() < give_up, text
                time.sleep(0.02)
        finally:
            release.set()
        assert [answer.result().status_code for answer in asked] == [200] * len(asked)
        assert f"{waiting}0.0" in client.get("/metrics").text
