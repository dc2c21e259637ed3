"""REST without Gradio: what programs send and get back, and that nothing they send makes the server fail."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jsonschema import Draft202012Validator
from PIL import Image

import sgmsnet
from engines import select
from engines.base import Availability
from sgmsnet import checkpoint
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import form, rest
from sgmsnet.web.desk import AT_ONCE, Desk
from sgmsnet.web.gate import Gate
from tests.fakes import FakeEngine, draw_xray, info_with
from tests.needs import ROOT

SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "prediction.schema.json").read_text()))
LOGIN = ("ward", "sécret:colon")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


CHEST = png(draw_xray(300, 400, sick=((0.2, 0.5, 0.4, 0.7),)))


def fake_desk(engine: FakeEngine | None = None) -> Desk:
    def opened(_: str) -> Pipeline:
        return Pipeline(engine or FakeEngine(), thresholds={"lungs": 0.4}, temperature={})

    known = SimpleNamespace(name="fake", available=True, reason="installed", version="1.0")
    return Desk(opened, probe=lambda: [known], first="fake", examples=ROOT / "nowhere")


def serve(desk: Desk, login: tuple[str, str] | None = None) -> TestClient:
    app = FastAPI()
    rest.attach(app, desk, gate=Gate(*login) if login else None)
    return TestClient(app)


SERVED = serve(fake_desk())


@pytest.fixture
def client() -> TestClient:
    return serve(fake_desk())


@pytest.fixture(scope="module")
def tiny_desk(tiny_model: Path) -> Iterator[Desk]:
    def opened(engine: str) -> Pipeline:
        return sgmsnet.load(tiny_model, engine=engine)

    files = checkpoint.find(tiny_model)
    desk = Desk(opened, probe=lambda: select.probe(files), first="onnxruntime", examples=ROOT / "nowhere")
    yield desk
    desk.pipeline("onnxruntime").close()


def send(client: TestClient, data: bytes = CHEST, *, name: str = "chest.png", **query: str) -> Any:
    return client.post("/v1/segment", files={"file": (name, data)}, params=query)


def refused(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    sentence: str = answer.json()["error"]
    assert sentence
    assert "\n" not in sentence
    return sentence


def unroll(lengths: dict[str, list[int]]) -> np.ndarray:
    """COCO's run lengths -> bool (H, W), as their description says: zeros first, down the columns."""
    flat = [bool(k % 2) for k, length in enumerate(lengths["counts"]) for _ in range(length)]
    return np.array(flat, bool).reshape(lengths["size"][::-1]).T


@pytest.mark.parametrize("masks", ["png", "rle", "none"])
def test_the_answer_is_the_record_and_the_masks_of_the_pipeline(tiny_desk: Desk, masks: str) -> None:
    thresholds = {"lungs": 0.45, "infection": 0.6}
    expected = tiny_desk.pipeline("onnxruntime").predict(CHEST, name="chest.png", thresholds=thresholds)
    options = {f"threshold.{name}": str(value) for name, value in thresholds.items()}
    with serve(tiny_desk) as client:
        got = send(client, masks=masks, **options).json()
    shown = got.pop("masks", {})
    SCHEMA.validate(got)
    assert {**got, "timings_ms": 0} == {**expected.record(), "timings_ms": 0}
    assert all(value >= 0 for value in got["timings_ms"].values())
    assert set(shown) == (set() if masks == "none" else {"lungs", "infection"})
    for name, mask in shown.items():
        pixels = unroll(mask) if masks == "rle" else np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))))
        np.testing.assert_array_equal(pixels > 0, expected.masks[name])


@settings(deadline=None)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_run_lengths_say_which_pixels_are_set(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(unroll(rest.run_lengths(mask)), mask)


def test_options_stand_in_the_form_as_well_as_in_the_query(client: TestClient) -> None:
    fields = {"masks": "none", "threshold.lungs": "0.7", "engine": "fake"}
    answer = client.post("/v1/segment", files={"file": ("a.png", CHEST)}, data=fields)
    assert "masks" not in answer.json()
    assert answer.json()["thresholds"]["lungs"] == 0.7


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"threshold.lungs": "high"}, "number"),
        ({"threshold.lungs": "nan"}, "between 0 and 1"),
        ({"threshold.lungs": "1"}, "between 0 and 1"),
        ({"threshold.heart": "0.5"}, "no class"),
        ({"masks": "gif"}, "png, rle or none"),
        ({"engine": "steam"}, "no engine"),
        ({"colour": "red"}, "no option"),
    ],
)
def test_an_option_without_sense_is_400(client: TestClient, query: dict[str, str], says: str) -> None:
    assert says in refused(send(client, **query), 400)


def test_an_option_given_twice_is_400(client: TestClient) -> None:
    answer = client.post("/v1/segment?masks=png", files={"file": ("a.png", CHEST)}, data={"masks": "rle"})
    assert "more than once" in refused(answer, 400)


def test_a_form_without_a_file_or_without_form_is_400(client: TestClient) -> None:
    assert "field 'file'" in refused(client.post("/v1/segment", files={"image": ("a.png", CHEST)}), 400)
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/segment", content=b"no form at all", headers=broken), 400)
    refused(client.post("/v1/segment", content=b"", headers={"content-type": "multipart/form-data"}), 400)


def test_what_is_not_an_image_is_415(client: TestClient) -> None:
    assert refused(send(client, b"Dear reader", name="../letter.png"), 415).startswith("letter.png")
    refused(client.post("/v1/segment", json={"file": "chest.png"}), 415)
    refused(client.post("/v1/segment"), 415)


@pytest.mark.parametrize("data", [b"", CHEST[:200], png(np.zeros((8, 8), np.uint8)), bytes(128) + b"DICM" + bytes(9)])
def test_an_image_that_cannot_be_read_is_422(client: TestClient, data: bytes) -> None:
    assert refused(send(client, data), 422).startswith("chest.png")


@settings(deadline=None, max_examples=25)  # each one is a request through the whole server
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        ["multipart/form-data; boundary=b", "multipart/form-data; boundary=b; charset=idna", "text/x"]
    ),
    head=st.sampled_from([b"", b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n']),
)
def test_no_body_makes_the_server_fail(body: bytes, kind: str, head: bytes) -> None:
    answer = SERVED.post("/v1/segment", content=head + body + b"\r\n--b--\r\n", headers={"content-type": kind})
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("name", ["\ud800.png", "röntgen\n.png", "a" * 5000, "..", "C:\\x\\chest.png"])
def test_any_file_name_comes_back_as_text(client: TestClient, name: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--b--\r\n'
    sent = name.replace("\n", "\\n").encode("unicode_escape" if "\ud800" in name else "utf-8")
    kind = "multipart/form-data; boundary=b" + ("; charset=unicode_escape" if "\ud800" in name else "")
    answer = client.post("/v1/segment", content=body % (sent, CHEST), headers={"content-type": kind})
    assert answer.status_code == 200 or "form cannot be read" in refused(answer, 400)
    if answer.status_code == 200:
        assert 1 <= len(answer.json()["image"]) <= 200


def test_a_large_upload_is_refused_before_it_is_read(client: TestClient) -> None:
    read = 0

    def body() -> Iterator[bytes]:  # without a length: only counting can stop it
        nonlocal read
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while read < 400 * 2**20:
            read += 2**20
            yield bytes(2**20)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    announced = {**headers, "content-length": str(65 * 2**20)}
    assert "64 MB" in refused(client.post("/v1/segment", content=b"x", headers=announced), 413)

    async def run() -> None:
        chunks = body()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": next(chunks), "more_body": True}

        scope = {"type": "http", "method": "POST", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
        with pytest.raises(form.RestError, match="larger than 64 MB") as stop:
            await form.read(form.Request(scope, receive))
        assert stop.value.status == 413

    asyncio.run(run())
    assert read <= 65 * 2**20


def test_a_failing_engine_is_500_with_one_sentence() -> None:
    client = serve(fake_desk(FakeEngine(refuse=7)))
    refused(send(client, png(np.full((224, 224), 7, np.uint8))), 500)
    assert send(client).status_code == 200


def test_models_names_classes_thresholds_and_engines(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["classes"]) == ("cxr", ["lungs", "infection"])
    assert model["thresholds"] == {"lungs": 0.4, "infection": 0.5}
    assert [engine["name"] for engine in model["engines"]] == ["fake"]


def test_models_and_page_tell_what_was_refused_and_how_the_engine_runs() -> None:
    found = [Availability(name, True, "installed", "1") for name in ("fast", "fake", "spare")]
    refused = (replace(found[0], available=False, reason="it is off", refused=True),)
    engine = FakeEngine(info_with(notes=("runs slowly",)))
    desk = Desk(
        lambda name: Pipeline(engine, thresholds={}, temperature={}, skipped=refused),
        probe=lambda: found,
        first="auto",
        examples=ROOT / "nowhere",
    )
    (model,) = serve(desk).get("/v1/models").json()["models"]
    assert model["engine"]["notes"] == ["runs slowly"]
    assert [(one["available"], one["reason"]) for one in model["engines"]] == [
        (False, "it is off"),
        (True, "installed"),
        (True, "installed"),
    ]
    from sgmsnet.web import layout  # and Gradio with it

    page = layout.reasons(desk)
    assert "<dt>fast</dt><dd>it is off</dd>" in page
    assert "<dt>fake</dt><dd>Available, version 1; runs slowly</dd>" in page


def test_the_documentation_names_every_path_and_option_and_loads_nothing(client: TestClient) -> None:
    described = client.get("/v1/openapi.json").json()
    page = client.get("/v1/").text
    assert set(described["paths"]) == {"/segment", "/models"}
    for path in described["paths"]:
        assert f"/v1{path}" in page
    operation = described["paths"]["/segment"]["post"]
    for parameter in operation["parameters"]:
        assert parameter["name"].split(".")[0] in page
    assert not any(tag in page for tag in ("<script", "<link", "src=", "@import"))


@pytest.mark.parametrize("masks", ["png", "rle", "none"])
def test_the_description_holds_for_answers_and_refusals(client: TestClient, masks: str) -> None:
    described = client.get("/v1/openapi.json").json()

    def holds(part: str, answer: Any) -> bool:
        return Draft202012Validator({**described, "$ref": f"#/components/schemas/{part}"}).is_valid(answer)

    answer = send(client, masks=masks).json()
    assert holds("Result", answer)
    assert not holds("Result", {**answer, "width": "wide"})
    assert not holds("Result", {**answer, "masks": {"lungs": 7}})
    assert holds("Models", client.get("/v1/models").json())
    assert holds("Error", send(client, b"no image").json())
    responses = described["paths"]["/segment"]["post"]["responses"]
    assert {"200", "401", "415", "422", "429", "500", "503"} <= set(responses)
    page = client.get("/v1/").text
    assert [status for status in responses if status != "200" and status not in page] == []


def test_the_description_names_the_login_where_there_is_one(client: TestClient) -> None:
    assert "security" not in client.get("/v1/openapi.json").json()
    header = {"authorization": basic(*LOGIN)}
    described = serve(fake_desk(), LOGIN).get("/v1/openapi.json", headers=header).json()
    (scheme,) = described["security"][0]
    assert described["components"]["securitySchemes"][scheme] == {"type": "http", "scheme": "basic"}


def test_the_documentation_s_calls_have_the_address_that_was_asked(client: TestClient) -> None:
    asked = {"host": "chests.example", "x-forwarded-proto": "https"}
    page = client.get("/v1/", headers=asked).text
    assert "https://chests.example/v1/segment" in page
    assert "127.0.0.1" not in page
    strange = client.get("/v1/", headers={"host": 'a"><script>'}).text
    assert "<script" not in strange


def test_unknown_paths_and_methods_are_one_sentence_too(client: TestClient) -> None:
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/v1/segment"), 405)


def test_with_a_login_only_the_probes_are_open() -> None:
    client = serve(fake_desk(), LOGIN)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    paths = ("/v1/models", "/v1/", "/v1/openapi.json", "/metrics")
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert client.get(path, headers={"authorization": basic(*LOGIN)}).status_code == 200
    for wrong in (basic("ward", "x"), basic("", ""), "Basic %%%", "Basic", "Bearer x", "Basic " + "é" * 3):
        header = {"authorization": wrong.encode("latin-1")}
        assert client.get("/v1/models", headers=header).status_code == 401
    refused(send(client), 401)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


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


def test_auto_and_the_engine_it_stands_for_are_one_pipeline(tiny_model: Path) -> None:
    files = checkpoint.find(tiny_model)
    desk = Desk(
        lambda engine: sgmsnet.load(tiny_model, engine="onnxruntime" if engine == "auto" else engine),
        probe=lambda: select.probe(files),
        first="auto",
        examples=ROOT / "nowhere",
    )
    with_auto = desk.pipeline("auto")
    assert desk.pipeline("onnxruntime") is with_auto
    with_auto.close()
