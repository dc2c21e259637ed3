"""Uploaded files and zip archives -> the list of images that a batch reads, one after the other, into memory.

Nothing is ever unpacked to the disk, so no path in an archive leads anywhere. What an archive says of itself is checked
before a byte of it is unpacked, and no more than it said is ever unpacked.
"""

from __future__ import annotations

import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sgmsnet import imaging

MAX_FILES = 200
MAX_TOTAL_BYTES = 500 * 2**20
MAX_DIRECTORY_BYTES = 4 * 2**20
"""Of an archive's table of contents: far more than MAX_FILES names need, and little enough to hold."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_END, _END_BYTES, _LOCATOR, _LOCATOR_BYTES = b"PK\x05\x06", 22, b"PK\x06\x07", 20
_LITTER = {"thumbs.db", "desktop.ini", "dicomdir"}
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_DAMAGED = (zipfile.BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError, zlib.error)


class BatchError(ValueError):
    """One sentence for a person on why a batch cannot be run as a whole."""


class ItemError(ValueError):
    """One sentence on why one file of a batch cannot be read; begins with its name."""


@dataclass(frozen=True)
class Item:
    """One image to be: its name for people, how many bytes it will have, and where they are.

    problem is a sentence where it is known beforehand that it will not be read.
    """

    name: str
    size: int
    path: Path
    member: zipfile.ZipInfo | None = None
    problem: str | None = None

    def read(self) -> bytes:
        """The file's bytes; raises ItemError."""
        if self.problem is not None:
            raise ItemError(self.problem)
        if self.member is None:
            return _read_file(self)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                data = file.read(self.size + 1)  # to the end, where the checksum is compared
        except NotImplementedError:
            raise ItemError(f"{self.name}: it is packed in a way that is not read.") from None
        except _DAMAGED:
            raise ItemError(f"{self.name}: it is damaged in its archive.") from None
        if data.startswith(_ZIP):
            raise ItemError(f"{self.name}: an archive inside an archive is not opened.")
        return data


def collect(uploads: Sequence[Path]) -> list[Item]:
    """The images of all uploads, archives opened, in order; raises BatchError for none or too many or too much."""
    items = [item for path in uploads for item in (_members(path) if _is_zip(path) else [_file(path)])]
    if not items:
        raise BatchError("There is no image in what was uploaded.")
    if len(items) > MAX_FILES:
        raise BatchError(f"These are {len(items):,} files; a batch takes at most {MAX_FILES}.")
    total = sum(item.size for item in items)
    if total > MAX_TOTAL_BYTES:
        raise BatchError(f"Unpacked, this is {_megabytes(total)}; a batch takes at most {_megabytes(MAX_TOTAL_BYTES)}.")
    return items


def stems(names: Iterable[str]) -> list[str]:
    """Names for results that every system takes: different even where case does not count, at most 120 bytes."""
    taken: set[str] = set()
    result = []
    for name in names:
        stem, number = _stem(name), 1
        unique = stem
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.casefold())
        result.append(unique)
    return result


def _stem(name: str) -> str:
    base = PurePosixPath(name.replace("\\", "/")).name
    start, dot, suffix = base.rpartition(".")
    if dot and f".{suffix.lower()}" in imaging.SUFFIXES:
        base = start
    kept = "".join(
        letter if letter.isalnum() or letter in "-_." else "_" for letter in unicodedata.normalize("NFC", base)
    )
    stem = kept.encode("utf-8", "ignore")[:120].decode("utf-8", "ignore").strip("._")
    return f"_{stem}" if _RESERVED.match(stem) else stem or "image"


def _file(path: Path) -> Item:
    return Item(_shown(path.name), path.stat().st_size, path)


def _read_file(item: Item) -> bytes:
    if item.size > imaging.MAX_BYTES:
        raise ItemError(_too_large(item.name))
    try:
        return item.path.read_bytes()
    except OSError:
        raise ItemError(f"{item.name}: it is no longer on the server; please upload it again.") from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in _ZIP


def _members(path: Path) -> list[Item]:
    """The files of an archive without what systems leave in them; one Item with a problem for one that is damaged."""
    name = _shown(path.name)
    problem = _directory_problem(path, name)
    if problem is None:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (*_DAMAGED, NotImplementedError):
            problem = f"{name}: the archive is damaged."
    if problem is not None:
        return [Item(name, 0, path, problem=problem)]
    return [_member(path, entry) for entry in entries if not entry.is_dir() and not _litter(entry.filename)]


def _directory_problem(path: Path, name: str) -> str | None:
    """What is wrong with the table of contents, before anything builds it in memory."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - _END_BYTES - _LOCATOR_BYTES))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or at + _END_BYTES > len(tail):
        return f"{name}: the archive ends early."
    if tail[max(0, at - _LOCATOR_BYTES) :].startswith(_LOCATOR):
        return f"{name}: archives in the 64-bit form are not read; pack fewer files."
    if int.from_bytes(tail[at + 12 : at + 16], "little") > MAX_DIRECTORY_BYTES:
        return f"{name}: the archive lists far too many files; a batch takes at most {MAX_FILES}."
    return None


def _member(path: Path, entry: zipfile.ZipInfo) -> Item:
    name = _shown(entry.filename)
    return Item(name, entry.file_size, path, entry, _problem(entry, name))


def _problem(entry: zipfile.ZipInfo, name: str) -> str | None:
    parts = PurePosixPath(entry.filename.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", entry.filename):
        return f"{name}: its path leads out of the archive."
    if stat.S_ISLNK(entry.external_attr >> 16):
        return f"{name}: it is a link and not a file."
    if entry.flag_bits & 1:
        return f"{name}: it is encrypted; please unpack the archive first."
    if entry.file_size > imaging.MAX_BYTES:
        return _too_large(name)
    return None


def _litter(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    hidden = bool(parts) and parts[-1].startswith(".") and parts[-1] not in (".", "..")
    return "__MACOSX" in parts or hidden or (bool(parts) and parts[-1].lower() in _LITTER)


def _shown(name: str) -> str:
    """A name on one line that is not endless, its end kept, and that UTF-8 can carry."""
    line = "".join(letter if letter.isprintable() else "?" for letter in name)
    return line if len(line) <= 120 else f"{line[:60]}…{line[-59:]}"


def _too_large(name: str) -> str:
    return f"{name}: the file is larger than {imaging.MAX_BYTES // 2**20} MB."


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
