"""Stands before the whole server, page and REST alike: closed paths, sizes, rates, origins, headers, a polite end.

Plain ASGI, so that bodies are counted while they come and answers stream through untouched. Decides nothing about
images; who may come in is gate.py's matter, which paths there are is that of doors.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgmsnet.web import doors, places, room
from sgmsnet.web.doors import Door
from sgmsnet.web.gate import Gate, LockedError, client_of
from sgmsnet.web.places import Places
from sgmsnet.web.policy import Policy
from sgmsnet.web.rate import Rate
from sgmsnet.web.room import Room

log = logging.getLogger(__name__)

TOO_MANY = "Too many requests at once; please wait until some of them are answered."
NO_ROOM = "The server has no room for uploads at the moment; please try again later."
WORK_EACH, STILL_EACH, IDLE_EACH = 24, 64, 8
"""Requests in hand that one client may have, where its rate is limited: uploads and calls, what costs little (a page
asks for much of it at once), and pages that are open."""
SILENCE_S, BODY_S = 30.0, 600.0
"""How long a body may pause, and how long it may take in all."""
LINGER_S = 2.0
"""How long a body that was refused may go on coming, behind its answer."""
CONTENT_TYPE_AT_MOST = 200
"""Letters, of a form: Gradio fails at a boundary of more than 256; RFC 2046 allows 70."""
STILL_TIMES, CALL_TIMES = 12, 4
"""Pictures, scripts and styles cost little, and one image takes an upload and two calls of which one runs the model: so
many times as many of them are let in as images."""


class _Refusal(Exception):
    def __init__(self, status: int, sentence: str, *, wait_s: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.wait_s = status, sentence, wait_s


class _Gone(Exception):
    """The visitor has left before the request was complete."""


@dataclass
class Guard:
    """ASGI middleware. `signed_in` says of a request's cookies whether they are a login; `functions` names what the
    page can be asked to run, by number or name, and says of each whether it runs the model."""

    app: ASGIApp
    policy: Policy
    gate: Gate | None = None
    signed_in: Callable[[dict[str, str]], bool] = field(default=lambda cookies: False)
    functions: Callable[[], Mapping[int | str, bool]] | None = None
    closing: bool = False
    """Set to let nothing new begin; what was begun goes on."""

    def __post_init__(self) -> None:
        def rate(times: int, least: int) -> Rate | None:
            per_minute = (self.policy.per_minute or 0) * times
            return Rate(per_minute, burst=max(least, per_minute / 2)) if per_minute else None

        self._images, self._calls, self._still = rate(1, 8), rate(CALL_TIMES, 8 * CALL_TIMES), rate(STILL_TIMES, 200)
        limited = self.policy.per_minute is not None
        self._work, self._little, self._idle = (
            Places(each=each if limited else None) for each in (WORK_EACH, STILL_EACH, IDLE_EACH)
        )
        self._room = Room(self.policy.folder, most=self.policy.most_bytes)

    @property
    def working(self) -> int:
        """Requests in hand, streams that wait for a result included."""
        return self._work.taken + self._little.taken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        door = doors.find(scope["method"], path, folder=self.policy.folder)
        answer = _Answer(scope, path, send, self.policy.headers(path, door))
        begun = False

        async def watched() -> Message:
            nonlocal begun
            begun = True
            return await receive()

        try:
            await self._let_in(scope, path, door, watched, answer)
        except _Refusal as refusal:
            lingers = not begun and scope["method"] == "POST" and "expect" not in Headers(scope=scope)
            await answer.refuse(refusal, receive if lingers else None)

    async def _let_in(self, scope: Scope, path: str, door: Door | None, receive: Receive, answer: _Answer) -> None:
        headers, client = Headers(scope=scope), client_of((scope.get("client") or ("?",))[0])
        self._check_host(headers)
        if door is None:
            raise _Refusal(404, "There is nothing here.")
        if door.kind == "probe":
            await self.app(scope, receive, answer)
            return
        self._check_origin(scope, headers)
        if path == "/logout":
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise _Refusal(403, "Other sites log nobody out.")
            scope = {**scope, "query_string": b"all_session=false"}  # by default Gradio logs out all who share the name
        self._check_rate(door, path, client)
        if self.closing and scope["method"] == "POST":
            raise _Refusal(503, "The server is about to stop; please try again shortly.", wait_s=10)
        if door.login and self.gate is not None and not self.signed_in(_cookies(headers)):
            raise _Refusal(401, "Log in on the page first.")
        if door.kind == "upload" and len(headers.get("content-type", "")) > CONTENT_TYPE_AT_MOST:
            raise _Refusal(400, "The form cannot be read: its Content-Type is too long.")
        size = _announced(headers, door)
        if size > door.most:
            raise _too_large(door)
        async with AsyncExitStack() as held:
            try:
                held.enter_context(self._places(door, path).hold(client))
                if door.kind == "upload" or path == "/v1/segment":
                    whose = client if self.policy.per_minute is not None else None
                    await held.enter_async_context(self._room.hold(size, stays=door.kind == "upload", client=whose))
            except places.FullError as full:
                raise _Refusal(429, TOO_MANY, wait_s=2) if full.own else _Refusal(503, places.BUSY, wait_s=2) from None
            except room.FullError as full:
                if full.own:
                    raise _Refusal(429, TOO_MANY, wait_s=2) from None
                log.error("there is no room for uploads any more")
                raise _Refusal(503, NO_ROOM, wait_s=60) from None
            await self._pass_on(scope, path, door, _Body(receive, door, answer), answer, client)

    def _places(self, door: Door, path: str) -> Places:
        if path.startswith("/gradio_api/heartbeat/"):  # open as long as a page is, without a result to wait for
            return self._idle
        # A stream waits for a result: those who share an address, all that the queue lets wait.
        is_little = door.kind == "stream" or (door.kind == "still" and not door.most)
        return self._little if is_little else self._work

    async def _pass_on(self, scope: Scope, path: str, door: Door, body: _Body, answer: _Answer, client: str) -> None:
        try:
            if door.kind == "call":
                await self._check_call(path, body, client)
            if door.kind == "login" and self.gate is not None:
                self._begin_login(client)
            await self.app(scope, body, answer)
            if door.kind == "login" and self.gate is not None and answer.status == 200:
                self.gate.passed(client)
        except _Gone:
            pass
        except Exception:  # a cut-off body surfaces in the application in many ways; told the visitor already
            if not answer.finished_early:
                raise

    def _check_host(self, headers: Headers) -> None:
        """A page elsewhere can give its own name this machine's address, and would then be let in as this page."""
        if self.policy.hosts is not None and _host_name(headers.get("host", "")) not in self.policy.hosts:
            raise _Refusal(421, "This server answers only to names of its own machine; see --name, --auth and --host.")

    @staticmethod
    def _check_origin(scope: Scope, headers: Headers) -> None:
        """No CORS: a page elsewhere may neither read answers nor make a visitor's browser send anything."""
        if scope["method"] in ("GET", "HEAD") or "origin" not in headers:
            return
        own = {headers.get("host", ""), *(one.strip() for one in headers.get("x-forwarded-host", "").split(","))}
        try:
            origin = urlsplit(headers["origin"]).netloc.lower()
        except ValueError:  # a bracket that is not closed
            origin = ""
        if origin not in {one.lower() for one in own if one}:
            raise _Refusal(403, "Requests from other sites are not answered.")

    def _check_rate(self, door: Door, path: str, client: str) -> None:
        """One request; a call that runs the model counts as an image too, once its body says so (_check_call)."""
        if path == "/v1/segment":
            self._take(self._images, client)
        else:
            self._take(self._calls if door.kind in ("call", "upload", "login") else self._still, client)

    @staticmethod
    def _take(rate: Rate | None, client: str) -> None:
        if rate is not None and (wait_s := rate.take(client)):
            raise _Refusal(429, "Too many requests; please wait a moment.", wait_s=wait_s)

    def _begin_login(self, client: str) -> None:
        assert self.gate is not None
        try:
            self.gate.begin(client)
        except LockedError as locked:  # 400 is what Gradio's login form shows as wrong; to 429 it does nothing
            raise _Refusal(400, str(locked), wait_s=locked.wait_s) from None

    async def _check_call(self, path: str, body: _Body, client: str) -> None:
        try:
            asked = json.loads(await body.buffer())
        except (ValueError, RecursionError):
            raise _Refusal(400, "The request is not JSON.") from None
        if not isinstance(asked, dict) or doors.strange_paths(asked, folder=self.policy.folder):
            raise _Refusal(400, "Upload a file first; the server opens no other paths and no addresses.")
        runs_model = True
        if self.functions is not None:
            named = path.rpartition("/")[2] if path.startswith("/gradio_api/call/") else asked.get("fn_index")
            functions = self.functions()
            if not isinstance(named, (int, str)) or named not in functions:
                raise _Refusal(404, "There is no such function.")
            runs_model = functions[named]
        if runs_model:
            self._take(self._images, client)


class _Answer:
    """`send` that adds headers, remembers the status, and falls silent once the visitor has been told early."""

    def __init__(self, scope: Scope, path: str, send: Send, headers: dict[str, str]) -> None:
        self._scope, self._path, self._send, self._headers = scope, path, send, headers
        self.status: int | None = None
        self.finished_early = False

    async def __call__(self, message: Message) -> None:
        if self.finished_early:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": list(message.get("headers", []))}
            headers = MutableHeaders(raw=message["headers"])
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            for name, value in self._headers.items():
                headers[name] = value
            if self.status == 503:
                headers.setdefault("Retry-After", "2")
        await self._send(message)

    async def refuse(self, refusal: _Refusal, unread: Receive | None = None) -> None:
        """Answer with one sentence in the form that REST or the page's own programs expect.

        What still comes of an `unread` body is taken in before the connection is closed: closed at once, it would be
        reset, and a proxy that still sends would lose the answer.
        """
        if self.status is not None:  # an answer has begun; all that is left is to end it
            self.finished_early = True
            return
        key = "detail" if self._path.startswith(("/gradio_api/", "/login")) else "error"
        response = JSONResponse({key: refusal.sentence}, refusal.status, {"Connection": "close"})
        if refusal.wait_s is not None:
            response.headers["Retry-After"] = str(max(1, round(refusal.wait_s)))
        if unread is None:
            await response(self._scope, _nothing, self)
        else:
            head = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
            await self(head)
            await self({"type": "http.response.body", "body": response.body, "more_body": True})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_take_in(unread), LINGER_S)
            await self({"type": "http.response.body", "body": b"", "more_body": False})
        self.finished_early = True


class _Body:
    """`receive` that counts and times what comes, and can be read ahead."""

    def __init__(self, receive: Receive, door: Door, answer: _Answer) -> None:
        self._receive, self._door, self._answer = receive, door, answer
        self._came = 0
        self._complete = False
        self._ahead: list[Message] = []
        self._deadline: float | None = None

    async def __call__(self) -> Message:
        if self._ahead:
            return self._ahead.pop(0)
        try:
            return await self._next()
        except _Refusal as refusal:  # answered here: the application would make something else of an exception
            await self._answer.refuse(refusal)
            return {"type": "http.disconnect"}

    async def buffer(self) -> bytes:
        """The whole body, which the application gets afterwards all the same."""
        chunks: list[bytes] = []
        while not self._complete:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunks.append(message.get("body", b""))
        self._ahead.append({"type": "http.request", "body": b"".join(chunks), "more_body": False})
        return b"".join(chunks)

    async def _next(self) -> MutableMapping[str, Any]:
        if self._complete:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + BODY_S
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(SILENCE_S, self._deadline - now)))
        except asyncio.TimeoutError:
            raise _Refusal(408, "The upload took too long.") from None
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._came > self._door.most:
                raise _too_large(self._door)
        return message


def _announced(headers: Headers, door: Door) -> int:
    """Bytes of the body; as many as it may have where its length is not told."""
    told = headers.get("content-length", "")
    known = told.isascii() and told.isdigit() and "transfer-encoding" not in headers
    return int(told[:20]) if known else door.most


def _too_large(door: Door) -> _Refusal:
    most = door.most - (doors.AROUND_FILES if door.kind in ("rest", "upload") else 0)
    return _Refusal(413, f"The upload is larger than {most // 2**20} MB." if most >= 2**20 else "That is too much.")


def _cookies(headers: Headers) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in ";".join(headers.getlist("cookie")).split(";"))
    return {name: value for name, _, value in pairs if name}


def _host_name(host: str) -> str:
    return (host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]).lower().rstrip(".")


async def _take_in(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
