"""Which image belongs to which masks: folders in several layouts -> lists of samples; no pixels are read here."""

from __future__ import annotations

import csv
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from sgmsnet.imaging import SUFFIXES

Item = TypeVar("Item")
Split = Literal["train", "val", "all", "test"]
"""Part of a data set. "test" is for `evaluate` alone: neither a recipe nor a comparison can name it."""
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
QATA_TRAIN_IMAGES = 5716
"""Images of Kaggle's `Train Set`, in order of their names, that train; the 1,429 after them validate (LViT, SGSeg)."""
HELD_OUT_PERCENT = 20
ADULT_COLLECTIONS = ("am", "coh")
"""Collections (column `source` of sources.csv) whose images are of adults also where no age is given."""


class DatasetError(ValueError):
    """A data set that cannot be used, told in one sentence."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One folder of images and what its masks label."""

    path: str
    """Folder, absolute or under the data root."""
    masks: Mapping[str, str] = field(default_factory=dict)
    """Class name -> name of its mask folder beside the image folder."""
    empty: tuple[str, ...] = ()
    """Classes that are absent from every image of this source by definition, as infection from healthy chests."""
    include: str = ""
    """Regular expression that a stem must contain to be used."""
    adults: bool | None = None
    """True: only grown-ups (18 years or more), False: only children, by sources.csv; None: everybody, of any age.

    Whose age is not known, and whose collection is not known to be of adults, is neither.
    """
    weight: float = 1.0
    """Share of an epoch's samples that come from here, relative to the other sources."""

    def __post_init__(self) -> None:
        if isinstance(self.empty, str):
            raise DatasetError(f"source {self.path}: empty is a list of classes, as [{self.empty}]")
        if not isinstance(self.masks, Mapping):
            raise DatasetError(f"source {self.path}: masks names a folder for each class, as {{infection: masks}}")
        object.__setattr__(self, "empty", tuple(self.empty))
        if not self.masks and not self.empty:
            raise DatasetError(f"source {self.path}: name the mask folder of a class, or the classes that are empty")
        if self.weight < 0:
            raise DatasetError(f"source {self.path}: weight must not be negative")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, its mask files by class, and the classes known to be absent from it."""

    image: Path
    masks: Mapping[str, Path]
    empty: frozenset[str]
    group: str
    """What is resampled together: the patient where known, otherwise the stem."""
    collection: str = ""
    """Where the image comes from, by the column `source` of sources.csv; "" where it does not tell."""
    grown_up: bool | None = None
    """Is it of a grown-up; None where sources.csv does not tell."""

    @property
    def labelled(self) -> frozenset[str]:
        """Classes with a known answer; all others stay out of loss and metrics."""
        return frozenset(self.masks) | self.empty


KNOWN_SOURCES: dict[str, SourceConfig] = {
    "qata": SourceConfig(path="qata", masks={"infection": "masks"}),
    "infection": SourceConfig(path="infection", masks={"infection": "masks"}),
    "lungs": SourceConfig(path="lungs", masks={"lungs": "masks"}),
    "healthy": SourceConfig(path="healthy", masks={"lungs": "masks"}, empty=("infection",)),
}
"""What the folders of the data root label, by folder name."""


def data_root() -> Path:
    """The folder that SGMSNET_DATA names; by default `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("SGMSNET_DATA", beside))


def spread(items: Sequence[Item], most: int | None) -> list[Item]:
    """At most so many of a list, evenly spread; all for None or 0."""
    if not most or len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(most - 1, 1))] for i in range(most)]


def find_samples(source: SourceConfig, *, split: Split = "all", root: Path | None = None) -> list[Sample]:
    """List the samples of a source in order of their names.

    Understands `<split>/images` and `<split>/masks`, plain `images` and `masks` with equal stems (a fifth, chosen by
    a hash of the patient where known, otherwise of the stem, validates), QaTa-COV19 as Kaggle lays it out, and
    COVID-QU-Ex. An image without the mask of a class counts as unlabelled for that class. "all" is train and val, and
    the test part of COVID-QU-Ex alone. Raises DatasetError when nothing can be used.
    """
    folder = (root or data_root()) / source.path
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; SGMSNET_DATA names the folder that holds the data sets")
    try:
        wanted = re.compile(source.include)
    except re.error as error:
        raise DatasetError(f"source {source.path}: include is no regular expression ({error})") from None
    people = _people(folder)
    if source.adults is not None and not any(person.grown_up is not None for person in people.values()):
        raise DatasetError(f"{folder}: sources.csv with the columns stem and age is needed to tell ages")
    unknown = Person()
    samples = []
    images = 0

    def group_of(stem: str) -> str:
        return people.get(stem, unknown).patient or _group(stem)

    for image, masks in _pairs(folder, source.masks, split, group_of):
        person = people.get(image.stem, unknown)
        if not wanted.search(image.stem) or (source.adults is not None and person.grown_up is not source.adults):
            continue
        images += 1
        empty = frozenset(source.empty) - set(masks)
        if masks or empty:
            samples.append(
                Sample(
                    image=image,
                    masks=masks,
                    empty=empty,
                    group=group_of(image.stem),
                    collection=person.collection,
                    grown_up=person.grown_up,
                )
            )
    if not samples:
        why = f": none of its {images} images has a mask of the same name" if images else ""
        raise DatasetError(f"{folder}: found no labelled image for the {split} part{why}")
    return samples


def unlabelled(source: SourceConfig, *, root: Path | None = None) -> int:
    """How many images of a source's train and val have neither a mask nor a class that is known to be absent."""
    if source.empty:
        return 0
    wanted = re.compile(source.include)
    pairs = _pairs((root or data_root()) / source.path, source.masks, "all", _group)
    return sum(not masks and bool(wanted.search(image.stem)) for image, masks in pairs)


def _pairs(
    folder: Path, masks: Mapping[str, str], split: Split, group_of: Callable[[str], str]
) -> Iterator[tuple[Path, dict[str, Path]]]:
    if any((folder / part / "Images").is_dir() for part in ("Train Set", "Test Set")):
        yield from _kaggle_qata(folder, masks, split)
    elif (covid_qu_ex := _covid_qu_ex_root(folder)) is not None:
        yield from _covid_qu_ex(covid_qu_ex, masks, split)
    elif (folder / "images").is_dir():
        if split == "test":
            raise DatasetError(f"{folder}: expected test/images and test/masks for the test part")
        pairs = list(_with_masks(_images(folder / "images"), folder, masks))
        held_out = _held_out({group_of(image.stem) for image, _ in pairs})
        for image, found in pairs:
            if split == "all" or (split == "val") == (group_of(image.stem) in held_out):
                yield image, found
    else:
        for part in ("train", "val") if split == "all" else (split,):
            if not (folder / part / "images").is_dir():
                raise DatasetError(f"{folder}: expected {part}/images and {part}/masks, or images and masks")
            yield from _with_masks(_images(folder / part / "images"), folder / part, masks)


def _held_out(groups: Iterable[str]) -> set[str]:
    """A fifth of the groups, by a hash of their names, so that new ones move no other; one at least, and not all."""
    place = {group: zlib.crc32(group.encode()) % 100 for group in groups}
    ordered = sorted(place, key=lambda group: (place[group], group))
    chosen = sum(place[group] < HELD_OUT_PERCENT for group in ordered)
    return set(ordered[: min(max(chosen, 1), max(len(ordered) - 1, 0))])


def _kaggle_qata(folder: Path, masks: Mapping[str, str], split: Split) -> Iterator[tuple[Path, dict[str, Path]]]:
    part = folder / ("Test Set" if split == "test" else "Train Set")
    if not (part / "Images").is_dir():
        raise DatasetError(f"{folder}: expected {part.name}/Images and {part.name}/Ground-truths")
    images = _images(part / "Images")
    parts = {"train": images[:QATA_TRAIN_IMAGES], "val": images[QATA_TRAIN_IMAGES:], "all": images, "test": images}
    for image in parts[split]:
        mask = part / "Ground-truths" / f"mask_{image.stem}.png"
        yield image, dict.fromkeys(masks, mask) if mask.is_file() else {}


def _covid_qu_ex_root(folder: Path) -> Path | None:
    inner = [folder / f"{kind} Segmentation Data" for kind in ("Infection", "Lung")]  # Kaggle's download has both
    for candidate in (*(path / path.name for path in inner), *inner, folder):
        if any((candidate / part / "COVID-19" / "images").is_dir() for part in ("Train", "Val", "Test")):
            return candidate
    return None


def _covid_qu_ex(folder: Path, masks: Mapping[str, str], split: Split) -> Iterator[tuple[Path, dict[str, Path]]]:
    named = {"train": ["Train"], "val": ["Val"], "all": ["Train", "Val", "Test"], "test": ["Test"]}[split]
    for images in sorted(path for part in named for path in folder.glob(f"{part}/*/images")):
        yield from _with_masks(_images(images), images.parent, masks)


def _with_masks(
    images: Sequence[Path], folder: Path, masks: Mapping[str, str]
) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Each image with the files of its stem in the mask folders, whose suffixes may be in capitals too."""
    files = {name: _by_stem(folder / mask_folder) for name, mask_folder in masks.items()}
    for image in images:
        yield image, {name: found[image.stem] for name, found in files.items() if image.stem in found}


def _by_stem(folder: Path) -> dict[str, Path]:
    """Mask files by stem; where two have one stem, that of the earlier of MASK_SUFFIXES."""
    if not folder.is_dir():
        return {}
    masks = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in MASK_SUFFIXES]
    masks.sort(key=lambda path: MASK_SUFFIXES.index(path.suffix.lower()), reverse=True)
    return {path.stem: path for path in masks}


def _images(folder: Path) -> list[Path]:
    """By name; a DICOM file beside a picture of its stem is that picture's original, and does not count twice."""
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    pictures = {path.stem for path in images if path.suffix.lower() in MASK_SUFFIXES}
    return [path for path in images if path.suffix.lower() in MASK_SUFFIXES or path.stem not in pictures]


def _group(stem: str) -> str:
    patient = re.match(r"sub-s\d+", stem, re.IGNORECASE)  # QaTa's test part writes them in capitals
    return patient.group().lower() if patient else stem


@dataclass(frozen=True)
class Person:
    """Whose image it is and where it comes from, as far as sources.csv tells: "" and None where it does not."""

    patient: str = ""
    collection: str = ""
    grown_up: bool | None = None


def _people(folder: Path) -> dict[str, Person]:
    """Stem -> person, from the nearest sources.csv: of the data set, or of a folder that it lies in."""
    for place in (folder, *folder.parents[:2]):
        try:
            with (place / "sources.csv").open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
                rows = list(csv.DictReader(file))
        except OSError:
            continue
        except UnicodeDecodeError:
            raise DatasetError(f"{place / 'sources.csv'}: not in UTF-8; save it as CSV UTF-8") from None
        if rows and not rows[0].get("stem"):
            raise DatasetError(
                f"{place / 'sources.csv'}: the first column must be stem, an image's name without suffix"
            )
        return {_stem(row["stem"]): _person(row) for row in rows}
    return {}


def _stem(name: str) -> str:
    """Of a name that was written with its suffix too."""
    name = name.strip()
    return Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name


def _person(row: Mapping[str, str]) -> Person:
    patient, collection, age = ((row.get(name) or "").strip() for name in ("patient", "source", "age"))
    years = re.match(r"\d+", age)  # "55", "1-5 years" or nothing
    grown_up = int(years.group()) >= 18 if years else True if collection in ADULT_COLLECTIONS else None
    return Person(patient, collection, grown_up)
