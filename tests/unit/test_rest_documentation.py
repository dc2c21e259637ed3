"""What REST says of itself: its models and engines, the documentation, and a description that its answers fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from engines.base import Availability
from sgmsnet.pipeline import Pipeline
from sgmsnet.web.desk import Desk
from tests.fakes import FakeEngine, info_with
from tests.needs import ROOT
from tests.unit.rest_calls import LOGIN, basic, fake_desk, send, serve


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
