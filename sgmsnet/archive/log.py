"""The done-list: one record a line, appended only when its files lie on the disk. It is the result and the memory.

A process may be killed at any moment. What was not appended is done again, over the same files; a line that was cut
is taken away before the next is written. So every file has exactly one record.
"""

from __future__ import annotations

import json
import os
import re
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
LOCK_WAIT_S, RETRY_WAIT_S = 2.0, 30.0
"""For a lock that another job holds for a moment only; with retry, to take failures out of old lists."""


class Log:
    """The done-list of one shard, and what any shard of the folder has done; one process at a time."""

    def __init__(self, folder: Path, shard: Shard, *, retry: bool = False) -> None:
        """Lock it, mend its end, read what is done; raises ArchiveError when another job writes it.

        A job of another number of shards that runs now would do files of this one too, so its lists are refused alike.
        With `retry`, the shard's failures are taken out of all lists of the folder, so that they are tried again.
        """
        self.path = folder / f"predictions{shard.label}.jsonl"
        self._lock = _lock(self.path, wait_s=LOCK_WAIT_S)
        self._stream: IO[bytes] | None = None
        self._lines: list[bytes] = []
        self._folders: set[Path] = set()
        self._since = time.monotonic()
        self._done: set[bytes] = set()
        self.own = self.failed = 0
        """Records of the shard's files, whichever list they are in, and those among them that are failures."""
        try:
            _mend(self.path)
            self.path.touch()  # before looking at others, who look at this one
            if retry:
                _drop_failures(self.path, shard)
            for path in _of_other_shards(folder, shard):
                with _lock(path, wait_s=RETRY_WAIT_S if retry else LOCK_WAIT_S):
                    if retry:
                        _drop_failures(path, shard)
            self._remember(folder, shard)
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

    def _remember(self, folder: Path, shard: Shard) -> None:
        for record in read(folder.glob(PATTERN)):
            self._done.add(digest(record["path"]))
            if shard.holds(record["path"]):
                self.own += 1
                self.failed += failed(record)


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The records of some done-lists. A last line that is cut belongs to a job that runs or was killed: left out."""
    for path in paths:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                record = _parsed(line)
                if record is None:
                    raise ArchiveError(f"Line {number} of {path} is not a record of an archive job.")
                yield record


def failed(record: dict[str, Any]) -> bool:
    """Whether a file lacks what was asked for: its masks, or the segmentation made of them."""
    return record["error"] is not None or record.get("segmentation_error") is not None


def _to_retry(line: bytes, shard: Shard) -> bool:
    record = _parsed(line)
    return record is not None and failed(record) and shard.holds(record["path"])


def _of_other_shards(folder: Path, shard: Shard) -> list[Path]:
    """The done-lists of other numbers of shards; those of this number hold no file of this shard."""
    own = re.compile(r"predictions\.jsonl" if shard.of == 1 else rf"predictions-\d+-of-{shard.of}\.jsonl")
    return sorted(path for path in folder.glob(PATTERN) if not own.fullmatch(path.name))


def _drop_failures(path: Path, shard: Shard) -> None:
    """Put a list in the place of one that this process has locked; if it is killed, one of the two is there, whole."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        if not any(_to_retry(line, shard) for line in lines):
            return
    _mend(path)
    new = path.with_suffix(".part")
    with new.open("wb") as stream, path.open("rb") as lines:
        stream.writelines(line for line in lines if not _to_retry(line, shard))
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    sync_folder(path.parent)


def refuse_plain_records(folder: Path) -> None:
    """Raise ArchiveError where a plain predict's records lie, which have no path; changes nothing."""
    for path in folder.glob(PATTERN):
        with path.open("rb") as lines:
            _refuse_plain(path, lines.readline())


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
            _refuse_plain(path, line)
            if any(_parsed(rest) is not None for rest in lines):  # not an end, but damage within
                raise ArchiveError(f"{path} is damaged {whole} bytes from its beginning; its records go on after that.")
            lines.truncate(whole)
            os.fsync(lines.fileno())
            return


def _refuse_plain(path: Path, line: bytes) -> None:
    record = _loaded(line)
    if {"image", "error"} <= set(record) and "path" not in record:
        raise ArchiveError(f"{path} has the records of a predict without --archive; choose another --output.")


def _parsed(line: bytes) -> dict[str, Any] | None:
    record = _loaded(line)
    return record if {"path", "error"} <= set(record) else None


def _loaded(line: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for what is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _lock(path: Path, *, wait_s: float) -> IO[bytes]:
    lock = try_lock(path, wait_s=wait_s)
    if lock is None:
        raise ArchiveError(f"Another job is writing {path}.")
    return lock


def try_lock(path: Path, *, wait_s: float = 0.0) -> IO[bytes] | None:
    """The lock of a done-list until it is closed, if only by the end of this process; None where another has it."""
    stream = path.with_name(f".{path.stem}.lock").open("ab")
    give_up = time.monotonic() + wait_s
    while not _locked(stream):
        if time.monotonic() >= give_up:
            stream.close()
            return None
        time.sleep(0.05)
    return stream


def _locked(stream: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
