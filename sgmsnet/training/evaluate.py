"""A pipeline on images with masks -> what it found, at each image's own size; prints and writes nothing.

Needs no torch: any engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit

from sgmsnet.measurements import INFECTION, LUNGS
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Failure, Prediction
from sgmsnet.training.calibration import Reliability
from sgmsnet.training.data import (
    KNOWN_SOURCES,
    DatasetError,
    Sample,
    SourceConfig,
    Split,
    data_root,
    find_samples,
)
from sgmsnet.training.masks import read_mask
from sgmsnet.training.metrics import Counts
from sgmsnet.training.results import Evaluation, Row
from sgmsnet.training.surface import surface_distance
from sgmsnet.training.sweep import LogitHistogram

PARTS = ("train", "val", "test")


def split_of(dataset: str | Path, split: Split | None) -> Split:
    """The part that is meant where none is named: all of a folder that holds `images` itself, otherwise val.

    A folder that is a part by its name (`healthy/val`) is always used whole. Raises DatasetError.
    """
    folder = _folder(dataset)
    flat = (folder / "images").is_dir()
    if flat and folder.name in PARTS:
        return "all"
    return split or ("all" if flat else "val")


def samples_of(
    dataset: str | Path,
    *,
    split: Split | None = None,
    source: SourceConfig | None = None,
    adults: bool | None = None,
    include: str = "",
) -> list[Sample]:
    """The labelled images of a folder, or of a data set of the data root by name ("qata", "healthy", "healthy/val").

    split is as split_of takes it. Without `source`, what the masks label is known from the data set's name, or is
    infection. adults and include narrow the choice as in SourceConfig. Raises DatasetError.
    """
    folder = _folder(dataset)
    source = source or _known(folder) or SourceConfig(path=".", masks={"infection": "masks"})
    chosen = replace(
        source, path=".", adults=source.adults if adults is None else adults, include=include or source.include
    )
    return find_samples(chosen, split=split_of(dataset, split), root=folder)


def _folder(dataset: str | Path) -> Path:
    for folder in (Path(dataset), data_root() / dataset):
        if folder.is_dir():
            return folder.absolute()  # a link keeps the name by which it is called here
    raise DatasetError(f"{dataset}: no such folder, neither here nor in the data folder {data_root()}")


def _known(folder: Path) -> SourceConfig | None:
    """What a data set of the data root labels, by the name of its folder, of a part's parent or of a link's target."""
    for place in (folder, folder.resolve()):
        name = place.parent.name if place.name in PARTS and (place / "images").is_dir() else place.name
        if name in KNOWN_SOURCES:
            return KNOWN_SOURCES[name]
    return None


def evaluate(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    *,
    batch_size: int = 8,
    distances: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Predict every sample and compare its masks with the truth at the image's own size.

    distances=False leaves out HD95 and NSD, for speed. A mask that cannot be read or does not fit its image is a
    failure of its image, as one that gives no prediction.
    """
    found = Evaluation((), (), {}, {})
    rows: list[Row] = []
    failures: list[Failure] = []
    outcomes = pipeline.predict_many([sample.image for sample in samples], batch_size=batch_size)
    for done, (sample, outcome) in enumerate(zip(samples, outcomes, strict=True), start=1):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            try:
                row, histograms, reliability = _compare(sample, outcome, distances=distances)
            except DatasetError as error:
                failures.append(Failure(outcome.image, str(error)))
            else:
                rows.append(row)
                found = Evaluation.join([found, Evaluation((), (), histograms, reliability)])
        progress(done)
    return replace(found, rows=tuple(rows), failures=tuple(failures))


def truths_of(sample: Sample, prediction: Prediction) -> dict[str, np.ndarray]:
    """The true mask, bool (H, W), of each class of the model that the sample labels; raises DatasetError."""
    shape = (prediction.geometry.image_height, prediction.geometry.image_width)
    truths = {}
    for name in prediction.classes:
        if name in sample.masks:
            truths[name] = read_mask(sample.masks[name], shape=shape)
        elif name in sample.empty:
            truths[name] = np.zeros(shape, np.bool_)
    return truths


def _compare(
    sample: Sample, prediction: Prediction, *, distances: bool
) -> tuple[Row, dict[str, LogitHistogram], dict[str, Reliability]]:
    """One image: its row, and what its pixels add to the sums of each class."""
    counts, surfaces, histograms, reliability = {}, {}, {}, {}
    for name, truth in truths_of(sample, prediction).items():
        mask, outlined = prediction.masks[name], name not in sample.empty
        counts[name] = Counts.of(mask, truth)
        if distances and outlined:
            surfaces[name] = surface_distance(mask, truth, spacing_mm=prediction.radiograph.spacing_mm)
        logits = prediction.geometry.restore(prediction.logits[prediction.classes.index(name)])
        histograms[name] = LogitHistogram.of(logits, truth, outlined=outlined)
        reliability[name] = Reliability.of(expit(logits / prediction.temperature[name]), truth)
    share = prediction.measurements.infected_share.both
    lungless = share is None and {LUNGS, INFECTION} <= set(prediction.classes)
    return Row(sample, counts, surfaces, share, lungless), histograms, reliability
