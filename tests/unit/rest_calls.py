"""REST on a fake engine without Gradio, and the calls that programs make to it. No assertions."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from sgmsnet.pipeline import Pipeline
from sgmsnet.web import rest
from sgmsnet.web.desk import Desk
from sgmsnet.web.gate import Gate
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT

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


def send(client: TestClient, data: bytes = CHEST, *, name: str = "chest.png", **query: str) -> Any:
    return client.post("/v1/segment", files={"file": (name, data)}, params=query)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
