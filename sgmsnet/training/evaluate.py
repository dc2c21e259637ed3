"""A pipeline on images with masks -> metrics by class, at each image's own size; prints and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Failure, Prediction
from sgmsnet.training.data import (
    KNOWN_SOURCES,
    DatasetError,
    Sample,
    SourceConfig,
    Split,
    data_root,
    find_samples,
)
from sgmsnet.training.dataset import read_mask
from sgmsnet.training.metrics import Counts, summarise

SMALL_SHARE = 0.02
"""Infected share of the lungs above which a healthy chest counts as a false alarm."""


@dataclass(frozen=True)
class Row:
    """One image's counts by labelled class, and the infected share of its lungs where the model tells it."""

    image: str
    group: str
    counts: dict[str, Counts]
    empty: frozenset[str]
    infected_share: float | None


@dataclass(frozen=True)
class Evaluation:
    """Rows in order of the samples, and the images that could not be read with the reason."""

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]

    def summary(self) -> dict[str, Any]:
        """Metrics by class; classes that are empty by definition are counted apart, by infected share."""
        names = dict.fromkeys(name for row in self.rows for name in row.counts)
        result: dict[str, Any] = {"classes": {}, "unreadable": len(self.failures)}
        for name in names:
            outlined = [row.counts[name] for row in self.rows if name in row.counts and name not in row.empty]
            if outlined:
                result["classes"][name] = summarise(Counts.join(outlined))
        shares = [row.infected_share for row in self.rows if row.empty and row.infected_share is not None]
        if shares:
            result["healthy"] = {
                "images": len(shares),
                "infected_share_median": float(np.median(shares)),
                "part_above_2_percent": float(np.mean(np.array(shares) > SMALL_SHARE)),
            }
        return result

    def per_image(self) -> list[dict[str, Any]]:
        """One JSON-ready dictionary an image."""
        return [
            {
                "image": row.image,
                "group": row.group,
                "infected_share": row.infected_share,
                **{
                    name: {
                        "dice": float(c.dice[0]),
                        "iou": float(c.iou[0]),
                        "tp": int(c.tp[0]),
                        "fp": int(c.fp[0]),
                        "fn": int(c.fn[0]),
                    }
                    for name, c in row.counts.items()
                },
            }
            for row in self.rows
        ]


def samples_of(dataset: str | Path, *, split: Split, source: SourceConfig | None = None) -> list[Sample]:
    """The labelled images of a folder, or of a data set of the data root by name ("qata", "healthy").

    A folder that holds `images` itself is used whole, whatever `split` says. Without `source`, what the masks
    label is known from the data set's name, or is infection. Raises DatasetError.
    """
    folder = Path(dataset)
    if not folder.is_dir():
        folder = data_root() / dataset
    if not folder.is_dir():
        raise DatasetError(f"{dataset}: no such folder, neither here nor in the data folder {data_root()}")
    whole = (folder / "images").is_dir()
    known = KNOWN_SOURCES.get(folder.resolve().parent.name if whole else folder.resolve().name)
    source = source or known or SourceConfig(path=".", masks={"infection": "masks"})
    return find_samples(replace(source, path="."), split="all" if whole else split, root=folder)


def evaluate(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Predict every sample and compare its masks with the truth at the image's own size.

    Raises DatasetError for a mask that cannot be read or does not fit its image.
    """
    rows: list[Row] = []
    failures: list[Failure] = []
    outcomes = pipeline.predict_many([sample.image for sample in samples], batch_size=batch_size)
    for done, (sample, outcome) in enumerate(zip(samples, outcomes, strict=True), start=1):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            rows.append(_row(sample, outcome))
        progress(done)
    return Evaluation(tuple(rows), tuple(failures))


def _row(sample: Sample, prediction: Prediction) -> Row:
    counts = {}
    for name in prediction.classes:
        mask = prediction.masks[name]
        if name in sample.masks:
            counts[name] = Counts.of(mask, read_mask(sample.masks[name], shape=mask.shape))
        elif name in sample.empty:
            counts[name] = Counts.of(mask, np.zeros_like(mask))
    share = prediction.measurements.infected_share.both
    return Row(sample.image.name, sample.group, counts, sample.empty, share)
