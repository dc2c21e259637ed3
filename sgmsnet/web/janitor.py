"""Removes what visitors left behind: nothing in the folder of uploads and downloads outlives its time.

Gradio deletes what it remembers; this looks at the disk, so that copies and leftovers go as well.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

log = logging.getLogger(__name__)

FULL_BYTES = 256 * 2**20
"""A disk with less room than this takes no more uploads."""


class Janitor:
    """A thread that sweeps a folder until closed, so that no file gets older than `keep_s`."""

    def __init__(self, folder: Path, *, keep_s: float) -> None:
        self._folder = folder
        self._every_s = min(60.0, keep_s / 4)
        self._older_than_s = keep_s - self._every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is in the folder stays."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            sweep(self._folder, older_than_s=self._older_than_s)


def sweep(folder: Path, *, older_than_s: float) -> int:
    """Delete files older than that, and folders that are empty since; returns the number of files deleted."""
    before = time.time() - older_than_s
    deleted = 0
    for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):  # the deepest first
        try:
            if path.lstat().st_mtime >= before:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
                deleted += 1
        except FileNotFoundError:
            continue  # somebody else was quicker
        except OSError as error:
            if not path.is_dir():  # a folder that is still in use is no news
                log.warning("a file older than allowed could not be deleted: %s", error.strerror)
    return deleted
