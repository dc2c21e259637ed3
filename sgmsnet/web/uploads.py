"""The folder of uploads: made at start, locked while its server lives, removed with it. Knows no Gradio.

A server that is killed removes nothing: the next one to start removes what those have left whose lock is free.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = "sgmsnet-page-", "lock"


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder, links resolved, that ends with the block. Raises OSError where there can be none."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        own = Path(name).resolve()
        remove_orphans(own.parent)
        uploads = own / "uploads"  # beside the lock, which the janitor would sweep
        uploads.mkdir()
        with _locked(own):
            yield uploads


def remove_orphans(parent: Path) -> int:
    """Remove this user's folders in `parent` whose servers are gone; returns their number. Does nothing on Windows."""
    removed = 0
    if sys.platform != "win32":
        for path in parent.glob(f"{PREFIX}*"):
            with suppress(OSError):  # another user's, or somebody else was quicker
                found = path.lstat()
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _remove(path):
                    removed += 1
    return removed


if sys.platform != "win32":
    import fcntl

    @contextmanager
    def _locked(path: Path) -> Iterator[None]:
        """Hold the lock of a folder. It gets its name once it is held, so that it is never seen free meanwhile."""
        new = path / "lock.new"
        lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with suppress(OSError):  # a disk without locks: nobody can tell an orphan there, and none is removed
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(path / LOCK)
            yield
        finally:
            os.close(lock)

    def _remove(path: Path) -> bool:
        """Remove a folder unless its lock is held; raises OSError where there is none."""
        lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
        return not path.exists()

else:

    @contextmanager
    def _locked(path: Path) -> Iterator[None]:
        yield
