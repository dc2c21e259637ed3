"""REST without Gradio: what programs send and get back, and that nothing they send makes the server fail."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jsonschema import Draft202012Validator
from PIL import Image

import sgmsnet
from engines import select
from sgmsnet import checkpoint
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import form, rest
from sgmsnet.web.desk import Desk
from tests.fakes import FakeEngine
from tests.needs import ROOT
from tests.unit.rest_calls import CHEST, LOGIN, basic, fake_desk, png, send, serve

SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "prediction.schema.json").read_text()))
SERVED = serve(fake_desk())


@pytest.fixture(scope="module")
def tiny_desk(tiny_model: Path) -> Iterator[Desk]:
    def opened(engine: str) -> Pipeline:
        return sgmsnet.load(tiny_model, engine=engine)

    files = checkpoint.find(tiny_model)
    desk = Desk(opened, probe=lambda: select.probe(files), first="onnxruntime", examples=ROOT / "nowhere")
    yield desk
    desk.pipeline("onnxruntime").close()


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
