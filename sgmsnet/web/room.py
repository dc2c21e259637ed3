"""What uploads may still take of the disk: announced bytes are set aside until they have come. Knows no HTTP."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sgmsnet.web import doors
from sgmsnet.web.janitor import FULL_BYTES

MOST_BYTES, SHARE = 4 * 2**30, 2
"""Of all uploads and downloads together, and that at most a half of what was free at the start."""
LOOKED_S = 5.0


class FullError(Exception):
    """There is no room for an upload: for this client alone where `own`, else for anybody."""

    def __init__(self, *, own: bool = False) -> None:
        super().__init__("There is no room.")
        self.own = own


def most_of(free: int) -> int:
    """Bytes that the folder may hold on a disk with `free` ones, but never fewer than one upload may have."""
    return max(doors.BATCH_BYTES + doors.AROUND_FILES, min(MOST_BYTES, free // SHARE))


class Room:
    """The room of one folder, which may hold `most` bytes; None for as many as the disk. For one event loop."""

    def __init__(self, folder: Path, *, most: int | None = None) -> None:
        self._folder, self._most = folder, most
        self._on_the_way = self._coming = 0  # of all uploads, and of those that will lie in the folder
        self._of: Counter[str] = Counter()  # the former, by client
        self._seen = self._since = 0  # bytes in the folder when it was looked at last, and what has come since
        self._look_again = 0.0

    @asynccontextmanager
    async def hold(self, size: int, *, stays: bool, client: str | None = None) -> AsyncGenerator[None, None]:
        """Set `size` bytes aside while the block takes an upload; raises FullError before it.

        `stays`: the upload lies in the folder afterwards; others only pass through the disk. A client that is named
        has one upload on its way, or several that leave half of the room to others.
        """
        if stays and self._most is not None:
            await self._look()  # from here on nothing waits: others would come between a look and what follows from it
            on_its_way = self._of[client] if client is not None else 0
            if on_its_way and on_its_way + size > self._most // 2:
                raise FullError(own=True)
            if self._seen + self._since + self._coming + size > self._most:
                raise FullError
        if shutil.disk_usage(self._folder).free - self._on_the_way - size < FULL_BYTES:
            raise FullError
        self._on_the_way, self._coming = self._on_the_way + size, self._coming + size * stays
        if client is not None:
            self._of[client] += size
        try:
            yield
        finally:
            if client is not None:
                self._of[client] -= size
                if not self._of[client]:
                    del self._of[client]
            self._on_the_way, self._coming = self._on_the_way - size, self._coming - size * stays
            self._since += size * stays

    async def _look(self) -> None:
        """Count what lies in the folder, unless that was done a moment ago: not on the event loop, it may be much."""
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again, before = now + LOOKED_S, self._since
        self._seen = await asyncio.to_thread(_bytes_below, self._folder)
        self._since -= before  # what came while it was counted may be in both


def _bytes_below(folder: Path) -> int:
    found = 0
    for parent, _, names in os.walk(folder):  # bears folders that vanish under it
        for name in names:
            with suppress(OSError):
                found += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - thousands of times
    return found
