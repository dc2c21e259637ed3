"""Which images a command was given, and what to call their results. Opens no image beyond its first bytes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from sgmsnet import imaging


def collect(paths: Iterable[Path], *, leave_out: Path | None = None) -> list[Path]:
    """The images among files and folders, each once, in the order given and sorted within a folder.

    A file that is named is taken whatever its suffix, even if it is not there: reading it will say so.
    Folders are searched to their depth for images by suffix and for DICOM files of any name, except in
    `leave_out`, where an earlier run's results may lie.
    """
    found: dict[Path, Path] = {}  # resolved -> as given
    left_out = leave_out.resolve() if leave_out else None
    for path in paths:
        for file in _images_below(path, left_out) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _images_below(folder: Path, leave_out: Path | None) -> list[Path]:
    images = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if (here / name).resolve() != leave_out)
        images += [here / name for name in sorted(files) if looks_like_image(here / name)]
    return images


def looks_like_image(file: Path) -> bool:
    """By its suffix; DICOM files, which often have none, .IMA, or the end of a UID, by their first bytes."""
    if file.suffix.lower() in imaging.SUFFIXES:
        return True
    return file.name.upper() != "DICOMDIR" and _is_dicom(file)


def _is_dicom(file: Path) -> bool:
    try:
        return file.is_file() and imaging.is_dicom(file)  # a pipe would keep the reader waiting
    except OSError:
        return False


NAME_BYTES = 200


def output_names(files: Sequence[Path]) -> list[str]:
    """One name for each file's results, all different even where upper and lower case are the same.

    The stem where it is the only one; else the name with its suffix; else, for files of several folders, the
    folder below the common one in front, joined with "__".
    """
    top = Path(os.path.commonpath([file.resolve().parent for file in files])) if files else Path()
    by_stem: dict[str, list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        by_stem[_stem(file).casefold()].append(index)
    names = [""] * len(files)
    for group in by_stem.values():
        for index, name in zip(group, _different_names([files[i] for i in group], top), strict=True):
            names[index] = name
    return _numbered([fitting(name) for name in names])


def _different_names(files: list[Path], top: Path) -> list[str]:
    """The plainest way to name files of one stem so that they differ."""
    folders = ["__".join((*file.resolve().parent.relative_to(top).parts, "")) for file in files]
    ways = (
        [_stem(file) for file in files],
        [file.name for file in files],
        [folder + _stem(file) for folder, file in zip(folders, files, strict=True)],
        [folder + file.name for folder, file in zip(folders, files, strict=True)],
    )
    return next((way for way in ways if len({name.casefold() for name in way}) == len(files)), ways[-1])


def _stem(file: Path) -> str:
    """The name without its suffix; the last number of a UID is none."""
    return file.name if file.suffix[1:].isdecimal() else file.stem


def fitting(name: str) -> str:
    """Cut to what leaves room for "_infection.png" and the like: a disk takes names of 255 bytes."""
    return name.encode("utf-8", "surrogateescape")[:NAME_BYTES].decode("utf-8", "ignore")


def _numbered(names: list[str]) -> list[str]:
    """Append a number to what still collides, as "a.png" of a.png.jpg with that of a.png beside a.jpg."""
    taken: set[str] = set()
    result = []
    for name in names:
        unique, number = name, 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}__{number}"
        taken.add(unique.casefold())
        result.append(unique)
    return result
