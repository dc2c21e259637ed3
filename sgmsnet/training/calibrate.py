"""What a release needs beside trained weights: thresholds, temperature, familiarity and the cuts of the infected share.

Runs any engine and needs no torch; writing the weights is left to `checkpoint.recalibrate`. Temperature, thresholds and
cuts come from validation parts, familiarity from training parts.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image

from sgmsnet import imaging
from sgmsnet.familiarity import FamiliarityModel, shape_features
from sgmsnet.imaging import Source
from sgmsnet.interval import ShareCuts
from sgmsnet.measurements import INFECTION, LUNGS
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Failure, Prediction
from sgmsnet.training import share
from sgmsnet.training.data import DatasetError, Sample, data_root, spread
from sgmsnet.training.evaluate import samples_of, truths_of
from sgmsnet.training.familiarity import Seen, fit, margins_of
from sgmsnet.training.masks import read_mask
from sgmsnet.training.sweep import THRESHOLDS, LogitHistogram, Sweep
from sgmsnet.training.variants import LIKE, UNLIKE, Variant

CHESTS = 600
"""Of each training source, at most: more do not change the statistics of familiarity."""
VARIED = 80
"""Of each source, at most, from which pictures unlike them are made."""
_SMALL = 128
_Evidence = tuple[np.ndarray, np.ndarray, str]
"""Embedding float32 (C,), shape of the lungs float64 (13,), and whose chest it is or is made of."""
ADULTS = "healthy adults"
_FAMILIAR = {(INFECTION, "qata"), (LUNGS, "lungs"), (INFECTION, "healthy")}  # each validation chest once


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and the measurements to tell beside it.

    lungs: true and predicted shares of validation images; margins: logits of the familiarity score by kind of picture,
    for validation chests by source, what was made of them, and pictures of other kinds.
    """

    sweeps: dict[str, Sweep]
    thresholds: dict[str, float]
    temperature: dict[str, float]
    share_cuts: ShareCuts
    familiarity: FamiliarityModel
    lungs: tuple[share.Lung, ...]
    chests: dict[str, np.ndarray]
    blurred: dict[str, np.ndarray]
    made: dict[str, np.ndarray]
    others: dict[str, np.ndarray]


def calibrate(
    pipeline: Pipeline,
    *,
    thresholds: Mapping[str, float] | None = None,
    limit: int | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Calibration:
    """Fit everything on the data root's qata, infection, lungs, healthy and, to measure, negatives.

    thresholds fixes those that are not to be chosen; limit takes that many images of each part, for a trial.
    Raises DatasetError for a set that is missing or cannot be read, and for a model without lungs and infection.
    """
    if not {LUNGS, INFECTION} <= set(pipeline.info.classes):
        raise DatasetError("calibration needs a model of lungs and infection")
    runner = _Runner(pipeline, limit)
    progress("lungs of validation images")
    sweeps = {LUNGS: Sweep.of(runner.histogram(LUNGS, ("lungs", "healthy")))}
    runner.reads(LUNGS, *_chosen(LUNGS, sweeps[LUNGS], thresholds))
    progress("infection of validation images")
    sweeps[INFECTION] = Sweep.of(runner.histogram(INFECTION, ("qata", "infection", "healthy")))
    runner.reads(INFECTION, *_chosen(INFECTION, sweeps[INFECTION], thresholds))
    if not any(lung.side == "both" for lung in runner.lungs):
        raise DatasetError(
            "no validation image with known infection shows lungs, so its infected share has no interval"
        )
    progress("training chests, and pictures made unlike them")
    model = fit(*runner.training())
    progress("validation chests, and pictures made unlike them")
    made, blurred = runner.variants("val", UNLIKE), runner.variants("val", LIKE)
    progress("pictures of other kinds")
    return Calibration(
        sweeps=sweeps,
        thresholds=runner.thresholds,
        temperature=runner.temperature,
        share_cuts=share.fit([lung for lung in runner.lungs if lung.source != "healthy children"]),
        familiarity=model,
        lungs=tuple(runner.lungs),
        chests={name: margins_of(model, seen) for name, seen in runner.chests().items()},
        blurred={name: margins_of(model, seen) for name, seen in blurred.items()},
        made={name: margins_of(model, seen) for name, seen in made.items()},
        others={name: margins_of(model, seen) for name, seen in runner.negatives().items()},
    )


def _chosen(name: str, sweep: Sweep, fixed: Mapping[str, float] | None) -> tuple[float, float]:
    """Threshold and temperature of one class: those fixed, otherwise the best per-image Dice and the best fit."""
    if sweep.dice_per_image is None:
        raise DatasetError(f"no validation image outlines {name}")
    best = float(THRESHOLDS[np.argmax(sweep.dice_per_image)])
    return (fixed or {}).get(name, best), sweep.temperature or 1.0


class _Runner:
    """The network over the data sets, in a constant amount of memory; keeps what later steps need of each image."""

    def __init__(self, pipeline: Pipeline, limit: int | None) -> None:
        self.thresholds = dict(pipeline.thresholds)
        self.temperature = dict(pipeline.temperature)
        self.lungs: list[share.Lung] = []
        self._pipeline = pipeline
        self._limit = limit
        self._evidence: dict[str, list[_Evidence]] = {}

    def reads(self, name: str, threshold: float, temperature: float) -> None:
        """Take another threshold and temperature for a class from now on."""
        self.thresholds[name], self.temperature[name] = threshold, temperature

    def histogram(self, name: str, sources: Sequence[str]) -> LogitHistogram:
        """Logits of one class over validation parts; in passing, evidence of familiarity and shares of infection."""
        parts = []
        for source in sources:
            samples = [s for s in self._samples(source, "val") if name in s.labelled]
            for sample, prediction in zip(samples, self._predictions([s.image for s in samples]), strict=True):
                truth = truths_of(sample, prediction)[name]
                logits = prediction.geometry.restore(prediction.logits[prediction.classes.index(name)])
                parts.append(LogitHistogram.of(logits, truth, outlined=name not in sample.empty))
                if name == INFECTION:
                    grown_up = sample.grown_up if source == "healthy" else None
                    kind = source if grown_up is None else ADULTS if grown_up else "healthy children"
                    self._remember_share(sample, prediction, truth, kind)
                if (name, source) in _FAMILIAR:
                    self._evidence.setdefault(source, []).append(_evidence(prediction, sample.group))
                if len(parts) >= 64:  # histograms are long
                    parts = [LogitHistogram.join(parts)]
        return LogitHistogram.join(parts)

    def chests(self) -> dict[str, Seen]:
        """Evidence on the validation chests that histogram() saw, by source."""
        return {source: _seen(found) for source, found in self._evidence.items()}

    def training(self) -> tuple[Seen, Seen]:
        """Training chests, some of them blurred too, and the pictures made unlike them."""
        found = []
        for source in ("qata", "lungs", "healthy"):
            images = spread(self._samples(source, "train"), CHESTS)
            seen = self._predictions([sample.image for sample in images])
            found += [_evidence(p, sample.group) for p, sample in zip(seen, images, strict=True)]
        like, unlike = self.variants("train", LIKE), self.variants("train", UNLIKE)
        return _joined([_seen(found), *like.values()]), _joined(list(unlike.values()))

    def variants(self, split: str, variants: Mapping[str, Variant]) -> dict[str, Seen]:
        """Evidence on what is made of a few chests of each source."""
        samples = [s for source in ("qata", "lungs", "healthy") for s in spread(self._samples(source, split), VARIED)]
        result = {}
        for name, variant in variants.items():
            arrays = (np.ascontiguousarray(variant(imaging.load(sample.image).display)) for sample in samples)
            seen = self._predictions(arrays)
            result[name] = _seen([_evidence(p, sample.group) for p, sample in zip(seen, samples, strict=True)])
        return result

    def negatives(self) -> dict[str, Seen]:
        """Evidence on the pictures of other kinds, by kind; small ones are enlarged. Nothing without negatives."""
        folder = data_root() / "negatives"
        if not (folder / "negatives.csv").is_file():
            return {}
        with (folder / "negatives.csv").open(newline="", encoding="utf-8") as table:
            rows = spread(list(csv.DictReader(table)), self._limit)
        arrays = (_enlarged(imaging.load(folder / row["file"]).display) for row in rows)
        found: dict[str, list[_Evidence]] = {}
        for row, prediction in zip(rows, self._predictions(arrays), strict=True):
            found.setdefault(row["kind"], []).append(_evidence(prediction, row["file"]))
        return {kind: _seen(evidence) for kind, evidence in sorted(found.items())}

    def _remember_share(self, sample: Sample, prediction: Prediction, truth: np.ndarray, source: str) -> None:
        outlined = data_root() / "lungs" / "val" / "masks" / f"{sample.image.stem}.png"
        lungs = None
        if source == "infection":
            if not outlined.is_file():
                return
            lungs = read_mask(outlined, shape=truth.shape)
        self.lungs += share.lungs_of(prediction, truth, lungs, source=source, group=sample.group)

    def _samples(self, source: str, split: str) -> list[Sample]:
        return spread(samples_of(source, split="train" if split == "train" else "val"), self._limit)

    def _predictions(self, sources: Iterable[Source]) -> Iterator[Prediction]:
        for outcome in self._pipeline.predict_many(sources):
            if isinstance(outcome, Failure):
                raise DatasetError(outcome.sentence)
            yield replace(outcome, thresholds=self.thresholds, temperature=self.temperature)


def _evidence(prediction: Prediction, group: str) -> _Evidence:
    if prediction.embedding is None:
        raise DatasetError("this engine gives no embedding, and familiarity needs it")
    return prediction.embedding, shape_features(prediction.on_the_grid(LUNGS)), group


def _seen(evidence: Sequence[_Evidence]) -> Seen:
    embeddings, shapes, groups = zip(*evidence, strict=True)
    return Seen(np.stack(embeddings), np.stack(shapes), np.array(groups))


def _joined(parts: Sequence[Seen]) -> Seen:
    return Seen(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Seen)))


def _enlarged(image: np.ndarray) -> np.ndarray:
    """A picture of less than 128 pixels, four times as large, so that it is not told by its size."""
    if max(image.shape) >= _SMALL:
        return image
    return np.array(Image.fromarray(image).resize((4 * image.shape[1], 4 * image.shape[0]), Image.Resampling.LANCZOS))
