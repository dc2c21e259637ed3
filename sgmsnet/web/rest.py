"""REST beside the page, on its port: /v1 for programs, /health and /ready for probes, /metrics for Prometheus.

Transport only: the desk segments, form.py reads the request. Needs FastAPI, which comes with Gradio, but no Gradio.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException

import sgmsnet
from engines.base import EngineError, EngineUnavailable
from sgmsnet import imaging, raster
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.png import mask_png
from sgmsnet.prediction import Prediction
from sgmsnet.web import about, describe, form
from sgmsnet.web.desk import Desk
from sgmsnet.web.form import Asked, Masks, RestError
from sgmsnet.web.gate import Gate, LockedError, client_of
from sgmsnet.web.places import BUSY, FullError, Places

log = logging.getLogger(__name__)

READY_KEPT_S = 5.0
WAITING_AT_MOST = 32
READING_EACH = 8
"""Uploads of one client that are read at the same time, where its rate is limited."""
_TOO_MANY = "Too many uploads at once; please wait until some of them have arrived."

_PROBED = ["GET", "HEAD"]
_PRINTED = "http://127.0.0.1:7860"
"""The address in rest.html, which the reader gets as the one that was asked."""
_PAGE = Path(__file__).resolve().with_name("rest.html")


def attach(
    app: FastAPI,
    desk: Desk,
    *,
    gate: Gate | None = None,
    closing: Callable[[], bool] = lambda: False,
    reading_each: int | None = None,
) -> None:
    """Add the routes to a server. With a gate, all but /health and /ready want its login as HTTP Basic.

    `closing` says whether the server is about to stop, and takes nothing new any more.
    """
    guard = [Depends(_guard(gate))]
    ready = Readiness(desk)
    app.mount("/v1", build(desk, gate=gate, reading_each=reading_each))

    @app.api_route("/health", methods=_PROBED, include_in_schema=False)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.api_route("/ready", methods=_PROBED, include_in_schema=False)
    def readiness() -> Response:  # not async: it runs the model
        yes = not closing() and ready()
        return JSONResponse({"status": "ready"}) if yes else JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics", include_in_schema=False, dependencies=guard)
    def metrics() -> Response:
        return Response(desk.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def build(desk: Desk, *, gate: Gate | None = None, reading_each: int | None = None) -> FastAPI:
    """The application that lies under /v1. One client may have `reading_each` uploads on their way; None for any."""
    api = FastAPI(
        title="SGMSNet",
        version=sgmsnet.__version__,
        description="Chest X-ray segmentation. Research demonstration, not a medical device.",
        # FastAPI's own documentation page loads scripts from elsewhere; and these two want the login as well.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "/v1"}],
        dependencies=[Depends(_guard(gate))],
    )
    api.exception_handler(RestError)(_refuse)
    api.exception_handler(StarletteHTTPException)(_refuse_http)
    api.post("/segment", summary="Segment one X-ray", openapi_extra=describe.SEGMENT)(_segment(desk, reading_each))

    @api.get("/models", summary="The model, its classes and engines", openapi_extra=describe.MODELS)
    def models() -> Response:
        return JSONResponse({"models": [_model(desk)]})

    @api.get("/openapi.json", include_in_schema=False)
    def schema() -> Response:
        return JSONResponse(describe.complete(api.openapi(), locked=gate is not None))

    @api.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        here = about.origin(request.headers, request.url.scheme) or _PRINTED
        return HTMLResponse(_PAGE.read_text(encoding="utf-8").replace(_PRINTED, here))

    return api


class Readiness:
    """Whether the first engine runs, by running it; an answer holds for some seconds."""

    def __init__(self, desk: Desk, *, kept_s: float = READY_KEPT_S) -> None:
        self._desk = desk
        self._kept_s = kept_s
        self._asking = threading.Lock()
        self._answer: tuple[float, bool] | None = None

    def __call__(self) -> bool:
        """True or False; never raises. Those who ask while the engine runs never wait: they get the last answer, and
        False where that is old, since an engine that hangs would be ready for ever."""
        if self._asking.acquire(blocking=False):
            try:
                if self._answer is None or time.monotonic() - self._answer[0] >= self._kept_s:
                    self._answer = time.monotonic(), self._runs()
                return self._answer[1]
            finally:
                self._asking.release()
        answer = self._answer
        return answer is not None and answer[1] and time.monotonic() - answer[0] <= 2 * self._kept_s

    def _runs(self) -> bool:
        try:
            self._desk.warm()
        except Exception:  # the outermost edge: the probe gets yes or no, the log the rest
            log.exception("the engine did not run")
            return False
        return True


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Bool (H, W) -> COCO's uncompressed run-length form.

    `counts` are lengths of runs down the columns, one column after the other, beginning with False.
    """
    height, width = mask.shape
    # Where runs end is looked for along the rows, as the mask lies in memory: a ninth of the time of turning it first.
    rows, columns = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    tops = np.flatnonzero(mask[-1, :-1] != mask[0, 1:]) + 1
    ends = np.sort(np.concatenate([columns * height + rows + 1, tops * height]))
    counts = np.diff(ends, prepend=0, append=mask.size).tolist()
    return {"size": [height, width], "counts": [0, *counts] if mask[0, 0] else counts}


def _segment(desk: Desk, reading_each: int | None) -> Callable[[Request], Awaitable[Response]]:
    workers = ThreadPoolExecutor(desk.at_once, thread_name_prefix="rest")
    most = desk.at_once + WAITING_AT_MOST
    asking = 0  # changed on the event loop alone; these have been read and want the model
    reading = Places(each=reading_each)
    desk.metrics.waiting("rest", lambda: max(0, asking - desk.at_once))

    async def read(request: Request) -> Asked:
        """Uploads that come slowly hold no place that a complete one could have: it gets its place afterwards."""
        if asking >= most:
            raise RestError(503, BUSY)
        try:
            with reading.hold(client_of(request.client.host if request.client else "?")):
                asked = await form.read(request)
        except FullError as full:
            raise (RestError(429, _TOO_MANY) if full.own else RestError(503, BUSY)) from None
        if asking >= most:
            asked.upload.file.close()
            raise RestError(503, BUSY)
        return asked

    async def segment(request: Request) -> Response:
        nonlocal asking
        with desk.metrics.request("rest"):
            try:
                asked = await read(request)
                loop = asyncio.get_running_loop()
                asking += 1
                try:
                    return JSONResponse(await loop.run_in_executor(workers, _answer, desk, asked))
                finally:
                    asking -= 1
            except RestError as error:
                desk.metrics.error("rest", "refused" if error.status < 500 else "failed")
                raise

    return segment


def _answer(desk: Desk, asked: Asked) -> dict[str, Any]:
    """The record with the masks. Raises RestError for whatever goes wrong."""
    with asked.upload.file as file:
        data = file.read()
    if data and not imaging.is_dicom(data[:132]) and raster.format_of(data) is None:
        raise RestError(415, f"{asked.name}: this is not a PNG, JPEG, TIFF or DICOM file.")
    try:
        prediction = desk.predict(data, name=asked.name, engine=asked.engine or desk.first, thresholds=asked.thresholds)
        return _encode(desk, prediction, asked.masks)
    except UnreadableImageError as error:
        raise RestError(422, str(error)) from None
    except (EngineUnavailable, ValueError) as error:  # an engine or a threshold that there is not
        raise RestError(400, str(error)) from None
    except EngineError as error:
        raise RestError(500, str(error)) from None
    except Exception:  # the outermost edge: the program gets a sentence, the log the rest
        log.exception("segmenting an image failed")
        raise RestError(500, "The image could not be segmented; the server's log says why.") from None


def _encode(desk: Desk, prediction: Prediction, masks: Masks) -> dict[str, Any]:
    began = time.perf_counter()
    record = prediction.record()
    if masks == "png":
        record["masks"] = {
            name: base64.b64encode(mask_png(mask)).decode("ascii") for name, mask in prediction.masks.items()
        }
    elif masks == "rle":
        record["masks"] = {name: run_lengths(mask) for name, mask in prediction.masks.items()}
    record["timings_ms"]["encode"] = round((time.perf_counter() - began) * 1000, 3)
    desk.metrics.observe(record)
    return record


def _model(desk: Desk) -> dict[str, Any]:
    pipeline = desk.pipeline(desk.first)
    info = pipeline.info
    engines = [
        {"name": one.name, "available": one.available, "reason": one.reason, "version": one.version}
        for one in desk.standing()
    ]
    return {
        "name": info.model,
        "sha256": info.model_sha256,
        "classes": list(info.classes),
        "thresholds": pipeline.thresholds,
        "input": {"height": info.height, "width": info.width},
        "engine": {
            "name": info.backend,
            "precision": info.precision,
            "device": info.device,
            "notes": list(info.notes),
        },
        "engines": engines,
    }


def _guard(gate: Gate | None) -> Callable[[Request], None]:
    """A dependency that lets a request through, or raises 401 for one without the login, 429 after too many."""

    def check(request: Request) -> None:
        if gate is None:
            return
        sent = _basic(request.headers.get("authorization", ""))
        try:
            if sent is not None and gate.admit(client_of(request.client.host if request.client else "?"), *sent):
                return
        except LockedError as locked:
            raise HTTPException(429, str(locked), {"Retry-After": str(max(1, round(locked.wait_s)))}) from None
        raise HTTPException(
            401, "Give the page's user and password (HTTP Basic).", {"WWW-Authenticate": 'Basic realm="SGMSNet"'}
        )

    return check


def _basic(header: str) -> tuple[str, str] | None:
    """User and password of an Authorization header; None where it holds none, which is no attempt at guessing."""
    kind, _, given = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


async def _refuse(_: Request, error: Exception) -> Response:
    status, sentence = (error.status, error.sentence) if isinstance(error, RestError) else (500, str(error))
    return JSONResponse({"error": sentence}, status, {"Retry-After": "2"} if status in (429, 503) else None)


async def _refuse_http(_: Request, error: Exception) -> Response:
    """What the framework refuses (no such path, wrong method, no login), in the same form."""
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": f"{error.detail.rstrip('.')}."}, error.status_code, error.headers)
