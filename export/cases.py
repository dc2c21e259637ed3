"""X-rays to verify and to calibrate with, and their true masks where there are any; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sgmsnet.checkpoint import ModelFiles
from sgmsnet.commands.inputs import collect
from sgmsnet.imaging import Geometry, load, prepare
from sgmsnet.training.data import KNOWN_SOURCES, DatasetError, Sample, SourceConfig, Split, data_root, find_samples
from sgmsnet.training.masks import read_mask


@dataclass(frozen=True, eq=False)
class Case:
    """One X-ray as the model takes it, the way back, and its true masks by class at its own size."""

    planes: np.ndarray
    """uint8 (1, H, W)."""
    geometry: Geometry
    truths: Mapping[str, np.ndarray] = field(default_factory=dict)


def read(paths: Sequence[Path], files: ModelFiles, *, masks: Mapping[str, str] | None = None) -> list[Case]:
    """The X-rays among files and folders.

    Beside a folder `images` the folders of `masks` (class -> folder name) hold the truth; without `masks` what a data
    set of the data root labels is known from its name. Raises ValueError where there is no X-ray.
    """
    found = [case for path in paths for case in _of_path(path, files, masks)]
    if not found:
        raise ValueError("there is no X-ray in these folders")
    return found


def of_data_root(files: ModelFiles, *, split: Split, at_most: int, labelled: bool) -> list[Case]:
    """About as many of each known data set, evenly spaced, `at_most` in all; raises ValueError where there is none.

    labelled leaves out images without a mask file of one of the model's classes.
    """
    lists = []
    for source in KNOWN_SOURCES.values():
        try:
            samples = find_samples(source, split=split)
        except DatasetError:
            continue
        samples = [sample for sample in samples if not labelled or set(sample.masks) & set(files.config.classes)]
        if samples:
            lists.append(samples)
    chosen: list[Sample] = []
    for index, samples in enumerate(sorted(lists, key=len)):  # what a small set lacks the larger ones give
        share = (at_most - len(chosen)) // (len(lists) - index)
        chosen += [samples[place] for place in _evenly(len(samples), share)]
    if not chosen:
        raise ValueError(f"there are no data sets in {data_root()} (SGMSNET_DATA names their folder): name images")
    return [_case(sample.image, sample.masks, files) for sample in chosen]


def _evenly(length: int, count: int) -> list[int]:
    count = min(length, count)
    return [index * length // count for index in range(count)]


def _of_path(path: Path, files: ModelFiles, masks: Mapping[str, str] | None) -> list[Case]:
    if not path.is_dir():
        return [_case(path, {}, files)]
    folder = path.parent if path.name == "images" else path
    if (folder / "images").is_dir():
        known = KNOWN_SOURCES.get(folder.resolve().name) or KNOWN_SOURCES.get(folder.resolve().parent.name)
        if masks is not None or known is not None:
            # Every image is listed, labelled or not.
            source = SourceConfig(path=".", masks=masks if masks is not None else known.masks, empty=("nothing",))  # type: ignore[union-attr]
            samples = find_samples(replace(source, path="."), split="all", root=folder)
            return [_case(sample.image, sample.masks, files) for sample in samples]
        path = folder / "images"
    return [_case(image, {}, files) for image in collect([path])]


def _case(image: Path, masks: Mapping[str, Path], files: ModelFiles) -> Case:
    radiograph = load(image)
    planes, geometry = prepare(radiograph, height=files.config.height, width=files.config.width)
    shape = (geometry.image_height, geometry.image_width)
    truths = {name: read_mask(mask, shape=shape) for name, mask in masks.items() if name in files.config.classes}
    return Case(planes, geometry, truths)
