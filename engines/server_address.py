"""Which server of the Open Inference Protocol v2 was named, by option or environment; asks the server nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from engines.base import EngineUnavailable

URL = "SGMSNET_TRITON_URL"
HIDDEN = "SGMSNET_TRITON_HIDDEN"
"""Set where results and errors are for strangers: then a server's address is in the log alone."""
_PORTS = {"http": 8000, "https": 443, "grpc": 8001, "grpcs": 443}


@dataclass(frozen=True)
class Address:
    """Where a server is, and how it is spoken to."""

    host: str
    port: int
    grpc: bool
    tls: bool


def hidden() -> bool:
    """Whether addresses are kept from results and errors."""
    return bool(os.environ.get(HIDDEN))


def called(host: str, port: int) -> str:
    """What results and errors call a server."""
    return "the server" if hidden() else f"the server {host}:{port}"


def parse_url(text: str) -> Address:
    """A URL or host:port -> Address; raises EngineUnavailable."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in _PORTS or not parts.hostname or port == -1 or parts.path.strip("/") or parts.query:
        raise EngineUnavailable(f"a server is named as host:port, http://host:port or grpc://host:port, not {text!r}")
    return Address(
        parts.hostname,
        port or _PORTS[parts.scheme],
        grpc=parts.scheme.startswith("grpc"),
        tls=parts.scheme.endswith("s"),
    )


def named_server() -> Address:
    """The server of SGMSNET_TRITON_URL; raises EngineUnavailable when there is none."""
    text = os.environ.get(URL, "").strip()
    if not text:
        raise EngineUnavailable(f"no server was named (--triton-url host:port, or {URL})")
    return parse_url(text)


def was_named() -> bool:
    """Whether there is such a server, be its address right or wrong."""
    return bool(os.environ.get(URL, "").strip())
