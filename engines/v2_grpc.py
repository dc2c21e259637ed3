"""The Open Inference Protocol v2 over gRPC, through tritonclient, which is imported when a server is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.base import EngineUnavailable
from engines.server_address import called, hidden
from engines.v2_http import ProtocolError

# gRPC would wait up to two minutes between its tries to reach a server that was away.
_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000)]
_LARGEST = 2**31 - 1
"""Bytes of a message; gRPC's own limit of 4 MB is less than a batch of results."""


class GrpcTransport:
    """One server; the channel serves all threads and connects again by itself."""

    def __init__(self, host: str, port: int, *, tls: bool, timeout_s: float) -> None:
        """Raise EngineUnavailable without the package tritonclient."""
        try:
            import tritonclient.grpc
            from tritonclient.utils import InferenceServerException
        except ImportError as error:
            raise EngineUnavailable(
                f"a server is reached by gRPC with the packages of requirements-triton.txt: {error}"
            ) from error
        address = f"{host}:{port}"
        self.name = called(host, port)
        self._grpc: Any = tritonclient.grpc
        self._error = InferenceServerException
        self._timeout_s = timeout_s
        sizes = [("grpc.max_send_message_length", _LARGEST), ("grpc.max_receive_message_length", _LARGEST)]
        self._client: Any = self._grpc.InferenceServerClient(address, ssl=tls, channel_args=[*_RECONNECT, *sizes])

    def server(self) -> dict[str, Any]:
        """See HttpTransport."""
        return self._call(lambda: self._client.get_server_metadata(as_json=True, client_timeout=self._timeout_s))

    def model(self, name: str) -> dict[str, Any]:
        """See HttpTransport."""
        return self._call(lambda: self._client.get_model_metadata(name, as_json=True, client_timeout=self._timeout_s))

    def config(self, name: str) -> dict[str, Any] | None:
        """See HttpTransport."""
        try:
            answer = self._client.get_model_config(name, as_json=True, client_timeout=self._timeout_s)
        except self._error:
            return None
        return answer["config"]

    def statistics(self, name: str) -> dict[str, Any] | None:
        """See HttpTransport."""
        try:
            return self._client.get_inference_statistics(name, as_json=True, client_timeout=self._timeout_s)
        except self._error:
            return None

    def infer(self, model: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """See HttpTransport."""
        tensor = self._grpc.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(np.ascontiguousarray(images))
        asked = [self._grpc.InferRequestedOutput(name) for name in outputs]
        result = self._call(lambda: self._client.infer(model, [tensor], outputs=asked, client_timeout=self._timeout_s))
        found = {name: result.as_numpy(name) for name in outputs}
        missing = [name for name, values in found.items() if values is None]
        if missing:
            raise ProtocolError(f"{self.name} left out {', '.join(missing)}")
        return {name: np.array(values, np.float32) for name, values in found.items()}  # memory of their own

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def _call(self, ask: Any) -> Any:
        try:
            return ask()
        except self._error as error:
            status = str(error.status() or "").removeprefix("StatusCode.")
            if status == "DEADLINE_EXCEEDED":
                told = f"did not answer within {self._timeout_s:g} s"
            elif status in ("UNAVAILABLE", "CANCELLED"):
                told = "cannot be reached" if hidden() else f"cannot be reached: {_short(error.message())}"
            else:
                told = f"refused: {_short(error.message())}"
            raise ProtocolError(f"{self.name} {told}") from error


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
