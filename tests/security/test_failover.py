"""An engine that fails, hangs or returns nonsense while the server runs costs a sentence or nothing."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from engines.base import EngineError, EngineUnavailable
from sgmsnet.web import rest
from sgmsnet.web.desk import Desk
from sgmsnet.web.failover import Failover, TimedEngine
from tests.fakes import INFO, FakeEngine, draw_xray
from tests.security.serving import fake_desk


class Broken(FakeEngine):
    """Fails in the way that `how` says, until it is mended: how = None."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how: str | None = how
        self.release = threading.Event()
        self.asked = 0

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.asked += 1
        if self.how == "exception":
            raise RuntimeError("CUDA error 700 at /home/somebody/kernel.cu:12")
        if self.how == "refusal":
            raise EngineError("the runtime refused")
        if self.how == "timeout":
            raise TimeoutError("the driver gave up")
        if self.how == "hang":
            self.release.wait(30)
        outputs = super().run(images)
        if self.how is not None and self.how.startswith("nan "):
            outputs[self.how.removeprefix("nan ")].flat[-1] = np.nan
        return outputs


HOWS = ("exception", "refusal", "timeout", "hang", *(f"nan {name}" for name in INFO.outputs))


@pytest.fixture(params=HOWS)
def broken(request: pytest.FixtureRequest) -> Iterator[Broken]:
    engine = Broken(request.param)
    yield engine
    engine.release.set()


def chest() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_xray()).save(buffer, "png")
    return buffer.getvalue()


def serve(desk: Desk) -> TestClient:
    app = FastAPI()
    rest.attach(app, desk)
    return TestClient(app)


def test_the_next_engine_answers_and_ready_turns_false(broken: Broken) -> None:
    client = serve(fake_desk(run_limit_s=0.2, broken=broken, sound=FakeEngine()))
    answers = [client.post("/v1/segment", files={"file": chest()}) for _ in range(3)]
    assert [answer.json()["engine"] for answer in answers] == ["sound"] * 3
    assert broken.asked == 1  # put aside after it failed once
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_without_another_engine_the_visitor_is_told_why(broken: Broken) -> None:
    client = serve(fake_desk(run_limit_s=0.2, broken=broken))
    answer = client.post("/v1/segment", files={"file": chest()})
    assert answer.status_code == 500
    sentence = answer.json()["error"]
    assert "masks" not in answer.json()
    assert "broken" in sentence or "refused" in sentence
    assert not {"home", "Traceback", "\n"} & set(sentence.split())


def test_who_chose_the_engine_is_told_why_and_not_answered_by_another(broken: Broken) -> None:
    desk = fake_desk(run_limit_s=0.2, sound=FakeEngine(), broken=broken)
    with pytest.raises(EngineError):
        desk.predict(draw_xray(), name="x", engine="broken")
    assert (
        desk.predict(draw_xray(), name="x", engine="auto" if desk.first == "auto" else "sound").engine.backend
        == "sound"
    )


def test_an_engine_that_runs_again_is_taken_back(broken: Broken) -> None:
    desk = fake_desk(run_limit_s=0.2, broken=broken, sound=FakeEngine())
    ready = rest.Readiness(desk, kept_s=0)
    assert not ready()
    assert desk.predict(draw_xray(), name="x", engine="broken").engine.backend == "sound"
    broken.how = None
    broken.release.set()
    give_up = time.monotonic() + 5
    while not ready() and time.monotonic() < give_up:
        time.sleep(0.01)
    assert desk.predict(draw_xray(), name="x", engine="broken").engine.backend == "broken"


def test_a_hanging_engine_is_not_asked_again_while_it_hangs() -> None:
    engine = Broken("hang")
    timed = TimedEngine(engine, limit_s=0.05)
    images = np.zeros((1, 1, 224, 224), np.uint8)
    with pytest.raises(EngineError, match=r"did not answer within 0\.05 s"):
        timed.run(images)
    for _ in range(3):
        with pytest.raises(EngineError, match="restart the server"):
            timed.run(images)
    assert engine.asked == 1
    timed.close()
    assert not engine.closed
    engine.release.set()


def test_readiness_never_waits_for_a_hanging_engine_twice() -> None:
    engine = Broken("hang")
    ready = rest.Readiness(fake_desk(run_limit_s=1.0, broken=engine), kept_s=0)
    first = threading.Thread(target=ready)
    first.start()
    while not engine.asked:
        time.sleep(0.01)
    began = time.monotonic()
    assert not ready()
    assert time.monotonic() - began < 0.5
    engine.release.set()
    first.join()


def test_wrong_images_are_not_the_engine_s_fault() -> None:
    with pytest.raises(ValueError, match="uint8"):
        TimedEngine(FakeEngine()).run(np.zeros((1, 1, 224, 224), np.float32))


def test_a_failed_engine_comes_last_for_a_while() -> None:
    now = [0.0]
    failover = Failover(aside_s=60, clock=lambda: now[0])

    def ask(engine: str) -> str:
        if engine == "a" and now[0] == 0:
            raise EngineUnavailable("not here")
        return engine

    assert failover.answer(["a", "b"], ask) == "b"
    now[0] = 59
    assert failover.answer(["a", "b"], ask) == "b"
    now[0] = 60
    assert failover.answer(["a", "b"], ask) == "a"


def test_where_all_fail_the_first_reason_is_told() -> None:
    def ask(engine: str) -> str:
        raise EngineError(f"{engine} is broken")

    with pytest.raises(EngineError, match="a is broken"):
        Failover().answer(["a", "b", "a"], ask)
