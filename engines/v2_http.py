"""The Open Inference Protocol v2 over HTTP, with the standard library alone; raises ProtocolError, in one sentence.

Tensors travel as raw bytes where the server says that it takes them (Triton does), as JSON numbers otherwise.
Not here: which model the server holds and whether it fits, which is triton_engine.py's.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from engines.server_address import called, hidden

_LENGTH = "Inference-Header-Content-Length"
CONNECT_S = 5.0


class ProtocolError(RuntimeError):
    """The server cannot be reached, refuses, or answers what nobody asked; told in one sentence."""


class HttpTransport:
    """One server; as many connections as threads ask at once, kept, and opened again when the server closed them."""

    def __init__(self, host: str, port: int, *, tls: bool, timeout_s: float) -> None:
        self.name = called(host, port)
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._tls = ssl.create_default_context() if tls else None
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._closed = False
        self._binary = False

    def server(self) -> dict[str, Any]:
        """Name, version and extensions of the server."""
        facts = self._json("GET", "/v2")
        self._binary = "binary_tensor_data" in facts.get("extensions", ())
        return facts

    def model(self, name: str) -> dict[str, Any]:
        """A model's inputs and outputs."""
        return self._json("GET", f"/v2/models/{quote(name)}")

    def config(self, name: str) -> dict[str, Any] | None:
        """Triton's configuration of a model; None from a server without that extension."""
        status, _, body = self._ask("GET", f"/v2/models/{quote(name)}/config")
        return self._parsed(body) if status == 200 else None

    def statistics(self, name: str) -> dict[str, Any] | None:
        """Triton's counts of a model; None from a server without that extension."""
        status, _, body = self._ask("GET", f"/v2/models/{quote(name)}/stats")
        return self._parsed(body) if status == 200 else None

    def infer(self, model: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """uint8 (N, 1, H, W) -> float32 arrays by name."""
        body, headers = _request(images, outputs, binary=self._binary)
        status, answered, answer = self._ask("POST", f"/v2/models/{quote(model)}/infer", body, headers)
        length = answered.get(_LENGTH)
        split = len(answer) if length is None else int(length)
        if status != 200:
            raise ProtocolError(f"{self.name} refused: {_reason(answer[:split], status)}")
        try:
            return _tensors(self._parsed(answer[:split]), memoryview(answer)[split:])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{self.name} gave an answer that is not whole: {error}") from error

    def close(self) -> None:
        """Close all connections; one that is in use closes after its answer."""
        self._closed = True
        while (connection := self._kept()) is not None:
            connection.close()

    def _json(self, method: str, path: str) -> dict[str, Any]:
        status, _, body = self._ask(method, path)
        if status != 200:
            raise ProtocolError(f"{self.name} refused {path}: {_reason(body, status)}")
        return self._parsed(body)

    def _parsed(self, body: bytes) -> dict[str, Any]:
        try:
            value = json.loads(body)
        except ValueError as error:
            raise ProtocolError(f"{self.name} does not speak the Open Inference Protocol") from error
        if not isinstance(value, dict):
            raise ProtocolError(f"{self.name} does not speak the Open Inference Protocol")
        return value

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One exchange. On a connection that was kept and has broken it is tried once more, on a new one."""
        kept = self._kept()
        try:
            return self._exchange(kept or self._connect(), method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            if kept is None or isinstance(error, TimeoutError):
                raise ProtocolError(self._told(error)) from error
        try:
            return self._exchange(self._connect(), method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise ProtocolError(self._told(error)) from error

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        whole = False
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            answer = response.status, response.headers, response.read()
            whole = True
        finally:
            if whole and connection.sock is not None and not self._closed:  # None: the server ends it with this answer
                self._idle.append(connection)
            else:
                connection.close()
        return answer

    def _kept(self) -> http.client.HTTPConnection | None:
        try:
            return self._idle.pop()
        except IndexError:  # not asked before: another thread may be quicker
            return None

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_S, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_S)
        connection.connect()
        connection.sock.settimeout(self._timeout_s)
        return connection

    def _told(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.name} did not answer within {self._timeout_s:g} s"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        return f"{self.name} cannot be reached" + ("" if hidden() else f": {reason}")


def _request(images: np.ndarray, outputs: Sequence[str], *, binary: bool) -> tuple[bytes, dict[str, str]]:
    tensor: dict[str, Any] = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    head: dict[str, Any] = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
    if not binary:
        tensor["data"] = images.reshape(-1).tolist()
        return json.dumps(head).encode(), {"Content-Type": "application/json"}
    raw = images.tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head["parameters"] = {"binary_data_output": True}
    text = json.dumps(head).encode()
    return text + raw, {"Content-Type": "application/octet-stream", _LENGTH: str(len(text))}


def _tensors(head: dict[str, Any], raw: memoryview) -> dict[str, np.ndarray]:
    """The outputs of an answer; raises KeyError, TypeError or ValueError for what is not whole."""
    found, start = {}, 0
    for tensor in head["outputs"]:
        if tensor["datatype"] != "FP32":
            raise ValueError(f"{tensor['name']} is {tensor['datatype']}, not FP32")
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(tensor["data"], np.float32)
        else:
            values = np.frombuffer(raw[start : start + size], "<f4").astype(np.float32)  # memory of its own
            start += size
        found[str(tensor["name"])] = values.reshape(tensor["shape"])
    return found


def _reason(body: bytes, status: int) -> str:
    try:
        return " ".join(str(json.loads(body)["error"]).split())[:300]
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {status}"
