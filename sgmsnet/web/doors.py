"""Which requests have a door here at all, how large each may be, and whether a login lies before it.

Gradio answers on many more paths than this page uses: it fetches addresses (`/proxy=`, `/file=http...`), takes
recordings, edits code. What is not listed here gets 404, in this version of Gradio and in the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sgmsnet import imaging

Kind = Literal["still", "stream", "call", "upload", "login", "rest", "probe"]

LIGHT: dict[str, Any] = {"concurrency_id": "light", "concurrency_limit": None}
"""Options of the page's events that run no model: guard.py does not count them as images."""

BATCH_BYTES = 500 * 2**20
"""Of all files that one visit to the page may send at once."""
CALL_BYTES = 8 * 2**20
SMALL_BYTES = 2**16
AROUND_FILES = 2**20

_API = "/gradio_api/"
_FILE = "/gradio_api/file="
_OPEN = {
    "/",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/robots.txt",
    "/pwa_icon",
    "/logout",
    "/config",
    "/config/",
}
_OPEN_API = {"startup-events", "user", "user/", "login_check", "login_check/", "app_id", "app_id/", "theme.css"}
_KEPT = ("/assets/", "/static/", "/svelte/", "/pwa_icon/")
_API_GET = {"info", "info/", "openapi.json", "queue/status"}


@dataclass(frozen=True)
class Door:
    """A request that is let in: its kind, the bytes its body may have, and whether it wants the page's login.

    `kept` answers may be kept by the browser; all others show what belongs to one visitor.
    """

    kind: Kind
    most: int = 0
    login: bool = False
    kept: bool = False


def find(method: str, path: str, *, folder: Path) -> Door | None:
    """The door of a request; None where there is none. `folder` holds uploads, the only files that are handed out."""
    if path in ("/health", "/ready"):
        return Door("probe") if method in ("GET", "HEAD") else None
    if path == "/metrics" or path == "/v1" or path.startswith("/v1/"):  # rest.py asks for the login by HTTP Basic
        return Door("rest", imaging.MAX_BYTES + AROUND_FILES)
    if method in ("GET", "HEAD"):
        return _get(path, folder)
    return _post(path) if method == "POST" else None


def _get(path: str, folder: Path) -> Door | None:
    if path in _OPEN:
        return Door("still")
    if path.startswith(_KEPT):
        return Door("still", kept=True)
    if path.startswith(_FILE):
        return Door("still", login=True) if inside(path.removeprefix(_FILE), folder) else None
    if not path.startswith(_API):
        return None
    name = path.removeprefix(_API)
    if name in _OPEN_API:
        return Door("still")
    if name in _API_GET:
        return Door("still", login=True)
    if name in ("queue/data", "upload_progress") or name.startswith(("call/", "heartbeat/")):
        return Door("stream", login=True)
    return None


def _post(path: str) -> Door | None:
    if path in ("/login", "/login/"):
        return Door("login", SMALL_BYTES)
    if path == "/gradio_api/upload":
        return Door("upload", BATCH_BYTES + AROUND_FILES, login=True)
    if path == "/gradio_api/queue/join" or path.startswith("/gradio_api/call/"):
        return Door("call", CALL_BYTES, login=True)
    if path in ("/gradio_api/cancel", "/gradio_api/reset"):
        return Door("still", SMALL_BYTES, login=True)
    return None


def inside(path: str, folder: Path) -> bool:
    """Whether a path, links and dots followed, lies in the folder; a URL never does."""
    if "\0" in path or len(path) > 4096 or not path.startswith(str(folder)):
        return False
    try:
        return Path(path).resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # too long, or links that lead in a circle
        return False


def strange_paths(body: Any, *, folder: Path) -> bool:
    """Whether a JSON value names a file that was not uploaded here: another path, or an address to fetch."""
    waiting = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and not inside(path, folder):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False
