"""Runs the page behind its guard: launch, wait, and an end that lets what was begun finish. Builds no page."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import gradio as gr

from sgmsnet.web import doors, layout, rest
from sgmsnet.web.desk import Desk
from sgmsnet.web.gate import ATTEMPTS, Gate
from sgmsnet.web.guard import Guard
from sgmsnet.web.policy import Policy

log = logging.getLogger(__name__)

GRACE_S = 25.0
"""After SIGTERM, for what is running."""
NO_LINK = "No public link could be made; the local page keeps running."
SESSIONS_KEPT = 100
"""Visitors of whom Gradio keeps the last result in memory, about 0.4 MB each; its own number is 10,000, for an hour."""
_AUTH_MESSAGE = f"After {ATTEMPTS} wrong passwords in a row, further ones are refused for a while."


class Server:
    """A page that is being served until `stop`."""

    def __init__(
        self,
        desk: Desk,
        policy: Policy,
        *,
        host: str,
        port: int,
        login: tuple[str, str] | None = None,
        share: bool = False,
        facts: layout.Facts | None = None,
    ) -> None:
        """Start to serve; raises OSError where that is not possible. The page tells `facts` about this server."""
        self._gate = Gate(*login) if login else None
        self._desk, self._policy = desk, policy
        self._guard: Guard | None = None
        self._share, self._link = share, None
        self._page = layout.build(desk, facts, public=self.public)
        desk.metrics.waiting("page", lambda: len(self._page._queue))
        _, _, self._link = self._page.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=self._gate.matches if self._gate else None,
            auth_message=_AUTH_MESSAGE,
            app_kwargs={"lifespan": self._lifespan},
            prevent_thread_lock=True,
            quiet=True,
            enable_monitoring=False,
            state_session_capacity=SESSIONS_KEPT,
            **layout.launch_options(),
        )

    def public(self) -> str | None:
        """What is to be said of a public link, on the page and in the terminal; None where none was asked for."""
        if not self._share:
            return None
        return f"Public link: {self._link}" if self._link else NO_LINK

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        """Runs before the first connection is taken: not one request gets past the guard.

        As middleware it would lie inside Gradio's own, which answers CORS by itself.
        """
        rest.attach(
            app,
            self._desk,
            gate=self._gate,
            closing=lambda: self._guard is not None and self._guard.closing,
            reading_each=None if self._policy.per_minute is None else rest.READING_EACH,
        )
        self._guard = Guard(
            app.middleware_stack,
            self._policy,
            gate=self._gate,
            signed_in=lambda cookies: _signed_in(app, cookies),
            functions=lambda: _functions(app.get_blocks()),
        )
        app.middleware_stack = self._guard
        yield

    def wait(self) -> None:
        """Return at the first SIGTERM or SIGINT; another one ends the process at once."""
        asked = threading.Event()

        def handle(number: int, frame: FrameType | None) -> None:
            if asked.is_set():
                raise SystemExit(1)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
        while not asked.wait(0.5):  # in slices, or Windows would not notice Ctrl-C
            pass

    def stop(self, *, grace_s: float = GRACE_S) -> bool:
        """Let nothing new begin, wait for what is running, close. False when something was still running."""
        assert self._guard is not None
        self._guard.closing = True
        give_up = time.monotonic() + grace_s
        while (busy := self._guard.working > 0) and time.monotonic() < give_up:
            time.sleep(0.05)
        self._page.close(verbose=False)
        return not busy


def _signed_in(app: Any, cookies: dict[str, str]) -> bool:
    given = (cookies.get(f"{kind}-{app.cookie_id}") for kind in ("access-token", "access-token-unsecure"))
    return any(token in app.tokens for token in given if token)


def _functions(blocks: gr.Blocks) -> dict[int | str, bool]:
    """By number and by name, whether a function of the page runs the model."""
    known: dict[int | str, bool] = {}
    for number, function in blocks.fns.items():
        known[number] = function.concurrency_id != doors.LIGHT["concurrency_id"]
        if isinstance(function.api_name, str):
            known[function.api_name] = known[number]
    return known
