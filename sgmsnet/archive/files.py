"""Which files an archive job is given, one after the other, and which shard each belongs to; keeps no list of them.

Unlike `commands.inputs`, which sees all files before it names one, a name here depends on its file's path alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgmsnet.archive import ArchiveError
from sgmsnet.commands.inputs import NAME_BYTES, fitting, looks_like_image


@dataclass(frozen=True)
class Item:
    """A file and its name: a relative path with slashes, under which its results lie and its record is found."""

    path: Path
    name: str

    @property
    def results(self) -> str:
        """What its results' file names begin with: its own; a hash makes up for what a disk would not take of it."""
        last = Path(self.name).name
        if len(last.encode("utf-8", "surrogateescape")) <= NAME_BYTES:
            return last
        return f"{fitting(last)}-{digest(self.name).hex()[:16]}"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, from 1 on. A file's shard is a hash of its name: the same on every machine and run."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ArchiveError(f"There is no shard {self.number} of {self.of}.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "3/8" -> the third of eight; raises ArchiveError."""
        if not re.fullmatch(r"[0-9]{1,6}/[0-9]{1,6}", text):
            raise ArchiveError(f"--shard takes I/N as in 1/4, not {text!r}.")
        number, of = text.split("/")
        return cls(int(number), int(of))

    @property
    def label(self) -> str:
        """For file names: "-3-of-8", and nothing where there is one shard only."""
        return "" if self.of == 1 else f"-{self.number}-of-{self.of}"

    def holds(self, name: str) -> bool:
        """Whether a file belongs to this shard."""
        return self.of == 1 or int.from_bytes(digest(name)[:8], "big") % self.of == self.number - 1


def digest(name: str) -> bytes:
    """16 bytes for a name; file names that are no Unicode have one too."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def stream(inputs: Sequence[Path], *, listing: Path | None, leave_out: Path) -> Iterator[Item]:
    """Files of folders to their depth, named files and the lines of a list, in no order that is promised.

    Below one folder a name is the path from there; with several inputs the folder's own name comes in front.
    Raises ArchiveError for a list that cannot be read, and for folders whose names or contents overlap.
    """
    folders = [path for path in inputs if path.is_dir()]
    _check_folders(folders)
    for path in inputs:
        if path in folders:
            front = f"{path.resolve().name}/" if len(inputs) > 1 or listing else ""
            yield from _below(path, front, leave_out.resolve())
        else:
            yield Item(path, _plain_name(path))
    if listing is not None:
        yield from _listed(listing)


def places(inputs: Sequence[Path], *, listing: Path | None) -> dict[str, str]:
    """The folder that each beginning of a name stands for; "" is that of all names with no other beginning.

    Two folders may hold files of the same names, as exports of a PACS do; by this they are told apart. What was named
    by an absolute path needs none: its name is that path. Raises ArchiveError for a list that cannot be read, and where
    an absolute and a relative path of two files come to one name.
    """
    folders = [path for path in inputs if path.is_dir()]
    if folders == list(inputs) and len(folders) == 1 and listing is None:
        return {"": str(folders[0].resolve())}
    found = {f"{folder.resolve().name}/": str(folder.resolve()) for folder in folders}

    def named() -> Iterator[Item]:  # a list may be long: it is read again rather than kept
        yield from (Item(path, _plain_name(path)) for path in inputs if path not in folders)
        yield from () if listing is None else _listed(listing)

    kinds = {item.path.is_absolute() for item in named()}
    if len(kinds) == 2:
        _check_names(named())
    if False in kinds:
        found[""] = str(Path.cwd())
    return found


def _check_names(items: Iterable[Item]) -> None:
    seen: dict[str, Path] = {}
    for item in items:
        path = item.path.absolute()
        other = seen.setdefault(item.name, path)
        if os.path.normpath(other) != os.path.normpath(path):
            raise ArchiveError(f"{other} and {path} would both be called {item.name}; give absolute paths alone.")


def _check_folders(folders: Sequence[Path]) -> None:
    real = [folder.resolve() for folder in folders]
    for index, one in enumerate(real):
        for other in real[index + 1 :]:
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise ArchiveError(f"{one} and {other} hold the same files; give only the outer folder.")
            if one.name == other.name:
                raise ArchiveError(f"Two folders are called {one.name}; give the folder above them.")


def _below(folder: Path, front: str, leave_out: Path) -> Iterator[Item]:
    """Walk with os.scandir, which does not read 100,000 names at once; links to folders are not followed."""
    waiting = [(folder.resolve(), front)]
    while waiting:
        here, front = waiting.pop()
        if here == leave_out:
            continue
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    path = here / entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((path, f"{front}{entry.name}/"))
                    elif not _leads_to_folder(entry) and looks_like_image(path):
                        yield Item(path, front + entry.name)
        except OSError as error:
            raise ArchiveError(f"The folder {here} could not be read: {error.strerror or error}.") from error


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder; one that leads nowhere becomes the failure of its own name."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _listed(listing: Path) -> Iterator[Item]:
    try:
        with listing.open("rb") as stream:
            wide = stream.read(2) in (b"\xff\xfe", b"\xfe\xff")  # as Windows PowerShell 5 writes it
        encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
        with listing.open(encoding=encoding, errors=errors, newline="\n") as lines:
            for line in lines:
                if text := line.rstrip("\r\n"):
                    yield Item(Path(text), _plain_name(Path(text)))
    except OSError as error:
        raise ArchiveError(f"The list {listing} could not be read: {error.strerror or error}.") from error
    except UnicodeError:
        raise ArchiveError(f"The list {listing} is not in UTF-8 or UTF-16.") from None


def _plain_name(path: Path) -> str:
    """The path as given; without its root, and never upwards, so that results stay below their folder."""
    name = Path(os.path.normpath(path))
    if name.is_absolute() or name.drive or ".." in name.parts:
        name = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and names with them
        name = name.relative_to(name.anchor)
    return name.as_posix()
