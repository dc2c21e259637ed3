"""A small server of the Open Inference Protocol v2 with Triton's extensions, in this process, around any engine.

It stands in for Triton where there is none, and misbehaves as asked: see Misbehaviour.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from engines.base import Engine, EngineError

_LENGTH = "Inference-Header-Content-Length"


@dataclass
class Misbehaviour:
    """What a test may change while the server runs."""

    binary: bool = True
    config: bool = True
    statistics: bool = True
    delay_s: float = 0.0
    refuse: str | None = None
    cut: bool = False
    """Answers lack their last bytes."""
    hang_up: bool = False
    """Connections are closed without an answer."""
    closes: bool = False
    """Every answer ends its connection, and says so."""
    parameters: dict[str, str] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    computed_ns: list[int] = field(default_factory=list)


@contextmanager
def serving(engine: Engine, *, port: int = 0, how: Misbehaviour | None = None, batch_max: int = 3) -> Iterator[str]:
    """host:port of a server that runs `engine` until the block ends."""
    how = how or Misbehaviour()

    class Handler(_Handler):
        served, misbehaviour, largest = engine, how, batch_max

    server = _Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        Handler.misbehaviour = Misbehaviour(hang_up=True)  # connections that are kept end too
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is nothing to print."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5
    served: Engine
    misbehaviour: Misbehaviour
    largest: int

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        info = self.served.info
        shapes = {name: list(value.shape[1:]) for name, value in self._shapes().items()}
        model = {
            "name": info.model,
            "platform": "test",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 1, info.height, info.width]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in shapes.items()],
        }
        known = {"precision": info.precision, "weights_sha256": info.model_sha256, **self.misbehaviour.parameters}
        config = {
            "max_batch_size": self.largest,
            "parameters": {name: {"string_value": value} for name, value in known.items()},
        }
        extensions = ["binary_tensor_data"] if self.misbehaviour.binary else []
        answers: dict[str, Any] = {
            "/v2": {"name": "stand-in", "version": "1.0", "extensions": extensions},
            f"/v2/models/{info.model}": model,
        }
        if self.misbehaviour.config:
            answers[f"/v2/models/{info.model}/config"] = config
        if self.misbehaviour.statistics:
            done = {"count": len(self.misbehaviour.computed_ns), "ns": sum(self.misbehaviour.computed_ns)}
            counted = {"success": done, "compute_infer": done}
            answers[f"/v2/models/{info.model}/stats"] = {"model_stats": [{"inference_stats": counted}]}
        found = answers.get(self.path)
        self._answer(200 if found else 404, json.dumps(found or {"error": f"there is no {self.path}"}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.misbehaviour.hang_up:
            self.close_connection = True
            return
        time.sleep(self.misbehaviour.delay_s)
        if self.misbehaviour.refuse:
            self._answer(500, json.dumps({"error": self.misbehaviour.refuse}).encode())
            return
        split = int(self.headers.get(_LENGTH, len(body)))
        head = json.loads(body[:split])
        [tensor] = head["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("images", "UINT8")
        raw = np.frombuffer(body[split:], np.uint8) if "data" not in tensor else np.uint8(tensor["data"])
        images = raw.reshape(tensor["shape"])
        self.misbehaviour.batches.append(len(images))
        if len(images) > self.largest:
            self._answer(400, json.dumps({"error": "the batch is larger than max_batch_size"}).encode())
            return
        start = time.perf_counter_ns()
        try:
            found = self.served.run(images)
        except EngineError as error:
            self._answer(500, json.dumps({"error": str(error)}).encode())
            return
        self.misbehaviour.computed_ns.append(time.perf_counter_ns() - start)
        wanted = {entry["name"]: found[entry["name"]] for entry in head["outputs"]}
        self._answer_tensors(wanted, binary=head.get("parameters", {}).get("binary_data_output", False))

    def _shapes(self) -> dict[str, np.ndarray]:
        info = self.served.info
        return self.served.run(np.zeros((1, 1, info.height, info.width), np.uint8))

    def _answer_tensors(self, outputs: dict[str, np.ndarray], *, binary: bool) -> None:
        tensors, raw = [], b""
        for name, values in outputs.items():
            tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
            if binary:
                tensor["parameters"] = {"binary_data_size": values.nbytes}
                raw += values.astype("<f4").tobytes()
            else:
                tensor["data"] = values.reshape(-1).tolist()
            tensors.append(tensor)
        head = json.dumps({"model_name": self.served.info.model, "outputs": tensors}).encode()
        if self.misbehaviour.cut:
            raw = raw[:-4]
        self._answer(200, head + raw, {_LENGTH: str(len(head))} if binary else {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        ending = {"Connection": "close"} if self.misbehaviour.closes else {}
        for name, value in {"Content-Length": str(len(body)), **ending, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
