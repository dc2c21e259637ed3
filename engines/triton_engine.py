"""Triton, or any server of the Open Inference Protocol v2, as an engine: the network runs there, nothing runs here.

`--triton-url` or SGMSNET_TRITON_URL names the server: host:port and http://host:port mean HTTP, grpc://host:port
gRPC, https:// and grpcs:// the same within TLS. `python -m export triton` writes what Triton needs to serve a model.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from engines.base import EngineError, EngineInfo, EngineUnavailable, Spent, check_images
from engines.server_address import Address, hidden, named_server
from engines.v2_http import HttpTransport, ProtocolError
from sgmsnet.checkpoint import ModelFiles

log = logging.getLogger(__name__)

TIMEOUT = "SGMSNET_TRITON_TIMEOUT_S"
_BATCH_UNKNOWN = 8
"""Images in one request to a server that does not tell its largest batch."""


class _Transport(Protocol):
    name: str

    def server(self) -> dict[str, Any]: ...
    def model(self, name: str) -> dict[str, Any]: ...
    def config(self, name: str) -> dict[str, Any] | None: ...
    def statistics(self, name: str) -> dict[str, Any] | None: ...
    def infer(self, model: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]: ...
    def close(self) -> None: ...


class TritonEngine:
    """A model that a server holds under the model's own name; safe to call from several threads."""

    info: EngineInfo

    def __init__(
        self,
        model: ModelFiles,
        *,
        address: Address | None = None,
        precision: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Reach the server and run once; raises EngineUnavailable when it has not this model, ready to run."""
        started = time.perf_counter()
        self._name = model.name
        self._closed = False
        self._address = address or named_server()
        self._transport = _open(self._address, timeout_s or _timeout_s())
        try:
            facts = self._transport.server()
            metadata = self._transport.model(model.name)
            served = _Served.read(metadata, self._transport.config(model.name) or {}, model)
            if precision not in (None, served.precision):
                raise EngineUnavailable(f"{self._transport.name} runs {served.precision}, not {precision}")
            self._served = served
            self.info = EngineInfo(
                backend="triton",
                precision=served.precision,
                device=self._transport.name.removeprefix("the "),
                height=model.config.height,
                width=model.config.width,
                classes=model.config.classes,
                outputs=served.outputs,
                model=model.name,
                model_sha256=model.sha256,
                runtime_version=f"{facts.get('name', 'unknown')} {facts.get('version', '')}".strip(),
                load_ms=0.0,
            )
            # A server may call itself ready while what runs the model is gone: only an answer proves it.
            self.run(np.zeros((1, 1, self.info.height, self.info.width), np.uint8))
        except (ProtocolError, EngineError) as error:
            if isinstance(error, ProtocolError):
                self._log(error)
            self.close()
            raise EngineUnavailable(str(error)) from error
        except BaseException:
            self.close()
            raise
        self.info = replace(self.info, load_ms=(time.perf_counter() - started) * 1e3)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run. Batches larger than the server's go in parts."""
        check_images(images, self.info)
        if self._closed:
            raise EngineError("the triton engine is closed")
        size = self._served.batch_max
        count = math.ceil(len(images) / size)
        parts = [self._run(part) for part in np.array_split(images, count)]
        if count == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.info.outputs}

    def spent(self) -> Spent | None:
        """See engines.base.ServerEngine."""
        try:
            [model] = (self._transport.statistics(self._name) or {})["model_stats"]
            times = {name: int(entry.get("ns", 0)) / 1e6 for name, entry in model["inference_stats"].items()}
            requests = int(model["inference_stats"]["success"].get("count", 0))
        except (ProtocolError, KeyError, TypeError, ValueError):
            return None
        compute_ms = sum(times.get(f"compute_{part}", 0.0) for part in ("input", "infer", "output"))
        return Spent(requests, times.get("queue", 0.0), compute_ms)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def _log(self, error: Exception) -> None:
        """What was kept from the error's sentence."""
        if hidden():
            log.warning("%s:%s: %s (%s)", self._address.host, self._address.port, error, error.__cause__)

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            found = self._transport.infer(self._name, images, self.info.outputs)
        except ProtocolError as error:
            self._log(error)
            raise EngineError(str(error)) from error
        for name in self.info.outputs:
            expected = (len(images), *self._served.shapes[name])
            shape = found[name].shape if name in found else None
            if shape is None or len(shape) != len(expected):
                raise EngineError(f"{self._transport.name} gave {name} of shape {shape}")
            if any(want not in (-1, have) for want, have in zip(expected, shape, strict=True)):
                raise EngineError(f"{self._transport.name} gave {name} of shape {shape}, not {expected}")
        return {name: found[name] for name in self.info.outputs}


@dataclass(frozen=True)
class _Served:
    """What the server says of the model, once it is known to fit."""

    outputs: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    """Without the batch; -1 where the server leaves it open."""
    batch_max: int
    precision: str

    @classmethod
    def read(cls, metadata: dict[str, Any], config: dict[str, Any], model: ModelFiles) -> _Served:
        """Raise EngineUnavailable when the server's model is another than ours."""
        size = [1, model.config.height, model.config.width]
        inputs = {entry["name"]: entry for entry in metadata.get("inputs", ())}
        images = inputs.get("images", {})
        if set(inputs) != {"images"} or images.get("datatype") != "UINT8" or _sides(images)[1:] != size:
            raise EngineUnavailable(f"the server's {model.name} does not take uint8 images of {size[1]} x {size[2]}")
        given = {entry["name"]: _sides(entry)[1:] for entry in metadata.get("outputs", ())}
        outputs = tuple(name for name in model.config.outputs if name in given)
        if given.get("logits", [-1])[0] not in (-1, len(model.config.classes)) or "logits" not in given:
            raise EngineUnavailable(f"the server's {model.name} has no logits of {len(model.config.classes)} classes")
        parameters = {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}
        if parameters.get("weights_sha256") not in (None, model.sha256):
            raise EngineUnavailable(f"the server's {model.name} was made of other weights than {model.weights.name}")
        return cls(
            outputs,
            {name: tuple(given[name]) for name in outputs},
            max(1, int(config.get("max_batch_size", _BATCH_UNKNOWN))),
            parameters.get("precision", "fp32"),
        )


def _sides(entry: dict[str, Any]) -> list[int]:
    return [int(side) for side in entry.get("shape", ())]  # gRPC's JSON has them as text


def _open(address: Address, timeout_s: float) -> _Transport:
    if not address.grpc:
        return HttpTransport(address.host, address.port, tls=address.tls, timeout_s=timeout_s)
    from engines.v2_grpc import GrpcTransport

    return GrpcTransport(address.host, address.port, tls=address.tls, timeout_s=timeout_s)


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise EngineUnavailable(f"{TIMEOUT} must be a time between 0 and 3600 seconds, not {text!r}")
    return seconds
