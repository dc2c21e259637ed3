"""The done-list: one record a line, appended only when its files lie on the disk. It is the result and the memory.

A process may be killed at any moment. What was not appended is done again, over the same files; a line that was cut
is taken away before the next is written. So every file has exactly one record.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sgmsnet.archive import ArchiveError
from sgmsnet.archive.files import Shard, digest

PATTERN = "predictions*.jsonl"
GROUP, GROUP_S = 64, 1.0
"""A group of records is written to the disk at once, when there are so many or the first has waited so long."""


class Log:
    """The done-list of one shard, and what any shard of the folder has done; one process at a time."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        """Lock it, mend its end, read what is done; raises ArchiveError when another job writes it."""
        self.path = folder / f"predictions{shard.label}.jsonl"
        self._lock = _lock(folder / f".predictions{shard.label}.lock", self.path)
        self._stream: IO[bytes] | None = None
        self._lines: list[bytes] = []
        self._folders: set[Path] = set()
        self._since = time.monotonic()
        self._done: set[bytes] = set()
        self.own = self.failed = 0
        """Records of this shard, and those among them that are failures."""
        try:
            _mend(self.path)
            self._remember(folder)
            self._stream = self.path.open("ab")
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write what waits, also when the job was interrupted: its files are there already."""
        try:
            self.flush()
        finally:
            if self._stream is not None:
                self._stream.close()
            self._lock.close()

    def __len__(self) -> int:
        """Files that are done or were taken up since."""
        return len(self._done)

    def take(self, name: str) -> bool:
        """Whether a file is to be done; False for one that was, or that was taken up before."""
        key = digest(name)
        if key in self._done:
            return False
        self._done.add(key)
        return True

    def add(self, name: str, record: dict[str, Any], folder: Path) -> None:
        """Append a record whose files lie in `folder`, together with others of its group."""
        if not self._lines:
            self._since = time.monotonic()
        self._lines.append(json.dumps({**record, "path": name}, allow_nan=False).encode() + b"\n")
        self._folders.add(folder)
        if len(self._lines) >= GROUP or time.monotonic() - self._since >= GROUP_S:
            self.flush()

    def flush(self) -> None:
        """Have everything that was added on the disk: first the names of the files, then their records."""
        if not self._lines or self._stream is None:
            return
        for folder in self._folders:
            sync_folder(folder)
        self._stream.write(b"".join(self._lines))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._lines.clear()
        self._folders.clear()

    def _remember(self, folder: Path) -> None:
        for path in folder.glob(PATTERN):
            for record in read([path]):
                self._done.add(digest(record["path"]))
                self.own += path == self.path
                self.failed += path == self.path and record["error"] is not None


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The records of some done-lists. A last line that is cut belongs to a job that runs or was killed: left out."""
    for path in paths:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                record = _parsed(line)
                if record is None:
                    raise ArchiveError(f"Line {number} of {path} is not a record of an archive job.")
                yield record


def forget_failures(folder: Path, shard: Shard) -> int:
    """Take the failures out of a shard's done-list, so that they are tried again; returns how many there were."""
    path = folder / f"predictions{shard.label}.jsonl"
    if not path.is_file():
        return 0
    with _lock(folder / f".predictions{shard.label}.lock", path):
        _mend(path)
        dropped, new = 0, path.with_suffix(".part")
        with new.open("wb") as kept, path.open("rb") as lines:
            for line in lines:
                record = _parsed(line)
                if record is not None and record["error"] is not None:
                    dropped += 1
                else:
                    kept.write(line)
            kept.flush()
            os.fsync(kept.fileno())
        new.replace(path)
        sync_folder(folder)
    return dropped


def sync_folder(folder: Path) -> None:
    """Have a folder's new names on the disk, where the system lets a folder be opened."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _mend(path: Path) -> None:
    """Cut away what a killed job or a power cut left at the end: everything after the last whole record."""
    if not path.is_file():
        return
    whole = 0
    with path.open("r+b") as lines:
        for line in lines:
            if line.endswith(b"\n") and _parsed(line) is not None:
                whole += len(line)
                continue
            if any(_parsed(rest) is not None for rest in lines):  # not an end, but damage within
                raise ArchiveError(f"{path} is damaged {whole} bytes from its beginning; its records go on after that.")
            lines.truncate(whole)
            os.fsync(lines.fileno())
            return


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"path", "error"} <= set(record) else None


def _lock(path: Path, of: Path) -> IO[bytes]:
    """An open file that no other process can lock until it is closed, if only by the end of this process."""
    stream = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise ArchiveError(f"Another job is writing {of}.") from error
    return stream
