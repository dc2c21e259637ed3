"""The result for one X-ray: masks at the image's own size, measurements, the result record. Runs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from engines.base import EngineInfo
from sgmsnet.familiarity import Familiarity
from sgmsnet.imaging import Geometry, Radiograph
from sgmsnet.interval import SHARES, Interval, ShareCuts, share_interval
from sgmsnet.measurements import INFECTION, LUNGS, Measurements, find_divider, measure

__all__ = [
    "STAGES",
    "Failure",
    "Familiarity",
    "Prediction",
    "check_thresholds",
    "failure_record",
    "logit_cut",
    "withhold_unfamiliar",
]

STAGES = ("decode", "prepare", "run", "postprocess", "encode")

RECORD_KEYS = (
    "image",
    "width",
    "height",
    "spacing_mm",
    "spacing_at",
    "thresholds",
    "areas_px",
    "areas_mm2",
    "infected_share",
    "infected_share_interval",
    "infection_outside_lungs_px",
    "familiar",
    "familiarity",
    "header_note",
    "sides_known",
    "engine",
    "precision",
    "device",
    "model",
    "model_sha256",
    "timings_ms",
    "error",
)


@dataclass(frozen=True)
class Failure:
    """An image that gave no prediction, and why, in one sentence for a person; familiarity where it was judged."""

    image: str
    sentence: str
    familiarity: Familiarity | None = None
    by_engine: bool = False
    """Whether the engine failed, which need not be the image's fault."""

    def record(self) -> dict[str, Any]:
        """The failure in the result schema."""
        return {**failure_record(self.image, self.sentence), **_verdict(self.familiarity)}


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so == would raise
class Prediction:
    """What a model says about one X-ray, before and after thresholds.

    logits are float32 (K, h, w) on the model's grid, attention float32 (h, w) by name in [0, 1], embedding
    float32 (C,) or None. thresholds are probabilities by class, temperature divides the logits by class.
    familiarity and share_cuts are None for a model whose weights were not calibrated for them.
    Raises ValueError where a threshold or temperature is missing or out of range.
    """

    image: str
    radiograph: Radiograph
    geometry: Geometry
    classes: tuple[str, ...]
    thresholds: dict[str, float]
    temperature: dict[str, float]
    logits: np.ndarray
    attention: dict[str, np.ndarray]
    embedding: np.ndarray | None
    engine: EngineInfo
    timings_ms: dict[str, float]
    familiarity: Familiarity | None = None
    share_cuts: ShareCuts | None = None

    def __post_init__(self) -> None:
        check_thresholds(self.thresholds, self.classes)
        for name in self.classes:
            if name not in self.thresholds:
                raise ValueError(f"There is no threshold for the class {name!r}.")
            if not self.temperature.get(name, 0) > 0:
                raise ValueError(f"The temperature of the class {name!r} must be a positive number.")

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Bool (H, W) by class, at the image's own size: probability > threshold."""
        return {name: self._mask(name) for name in self.classes}

    @cached_property
    def divider(self) -> np.ndarray | None:
        """float64 (H,): pixels with `column < divider[row]` are on the patient's right; None if unknown."""
        if LUNGS not in self.classes or not self.radiograph.usual_sides:
            return None
        g = self.geometry
        lungs = self.on_the_grid(LUNGS) > self.cut(LUNGS)
        return find_divider(lungs, height=g.image_height, width=g.image_width)

    @cached_property
    def measurements(self) -> Measurements:
        """Areas and infected share at the present thresholds."""
        return measure(self.masks, divider=self.divider, spacing_mm=self.radiograph.spacing_mm)

    @cached_property
    def share_interval(self) -> dict[str, Interval | None]:
        """95 % interval of the true infected share of "left", "right" and "both"; None where it cannot be told.

        It does not move with the threshold of infection: at an unusual one the measured share may lie outside.
        """
        if self.share_cuts is None or not {LUNGS, INFECTION} <= set(self.classes):
            return dict.fromkeys(SHARES)
        lungs = self.on_the_grid(LUNGS) > self.cut(LUNGS)
        image_left = self.image_left(lungs.shape)
        found = share_interval(self.on_the_grid(INFECTION), lungs, image_left=image_left, cuts=self.share_cuts)
        shares = self.measurements.infected_share  # lungs may be there on the grid, and in no pixel of a tiny image
        return {side: interval if getattr(shares, side) is not None else None for side, interval in found.items()}

    def probability(self, name: str) -> np.ndarray:
        """float32 (H, W) in [0, 1] of one class, at the image's own size; ValueError for an unknown class."""
        if name not in self.classes:
            raise ValueError(f"The model has no class {name!r}; it has {_listed(self.classes)}.")
        probability: np.ndarray = expit(self._restored_logits(name) / np.float32(self.temperature[name]))
        return probability

    def with_thresholds(self, thresholds: Mapping[str, float]) -> Prediction:
        """The same prediction at other thresholds; classes that are not named keep theirs."""
        return replace(self, thresholds={**self.thresholds, **thresholds})

    def record(self) -> dict[str, Any]:
        """The result schema (docs/prediction.schema.json) as a dict that json.dumps takes."""
        m, share = self.measurements, self.measurements.infected_share
        spacing = self.radiograph.spacing_mm
        return {
            "image": self.image,
            "width": self.geometry.image_width,
            "height": self.geometry.image_height,
            "spacing_mm": None if spacing is None else [float(value) for value in spacing],
            "spacing_at": self.radiograph.spacing_at,
            "thresholds": {name: float(self.thresholds[name]) for name in self.classes},
            "areas_px": m.areas_px,
            "areas_mm2": m.areas_mm2,
            "infected_share": {"left": share.left, "right": share.right, "both": share.both},
            "infected_share_interval": {side: _ends(interval) for side, interval in self.share_interval.items()},
            "infection_outside_lungs_px": m.infection_outside_lungs_px,
            **_verdict(self.familiarity),
            "header_note": self.radiograph.header_note,
            "sides_known": m.sides_known,
            "engine": self.engine.backend,
            "precision": self.engine.precision,
            "device": self.engine.device,
            "model": self.engine.model,
            "model_sha256": self.engine.model_sha256,
            "timings_ms": {stage: _rounded(self.timings_ms.get(stage)) for stage in STAGES},
            "error": None,
        }

    def on_the_grid(self, name: str) -> np.ndarray:
        """float32 (h, w): logits on the model's grid without the padding."""
        return self.geometry.inside(self.logits[self.classes.index(name)])

    def image_left(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Bool (h, w) on the model's grid: the patient's right side; None where the sides are unknown."""
        if self.divider is None:
            return None
        rows, columns = shape
        centres = ((np.arange(rows) + 0.5) * len(self.divider) / rows).astype(int)
        divider = (self.divider[centres] + 0.5) * (columns / self.geometry.image_width) - 0.5
        image_left: np.ndarray = np.arange(columns) < divider[:, None]
        return image_left

    def cut(self, name: str) -> float:
        """The logit above which a pixel belongs to a class."""
        return logit_cut(self.thresholds[name], self.temperature[name])

    def _mask(self, name: str) -> np.ndarray:
        # Compared as logits, which spares an exponential for every pixel of a large image.
        return self.geometry.restore_above(self.logits[self.classes.index(name)], self.cut(name))

    def _restored_logits(self, name: str) -> np.ndarray:
        """float32 (H, W): resized before temperature, sigmoid and threshold, so that borders stay sharp."""
        return self.geometry.restore(self.logits[self.classes.index(name)])


def logit_cut(threshold: float, temperature: float) -> float:
    """The x with sigmoid(x / temperature) = threshold, so that x > cut says the same as p > threshold."""
    return temperature * math.log(threshold / (1 - threshold))


def check_thresholds(thresholds: Mapping[str, float], classes: tuple[str, ...]) -> None:
    """Raise ValueError for a class the model does not have or a threshold outside (0, 1)."""
    for name, threshold in thresholds.items():
        if name not in classes:
            raise ValueError(f"The model has no class {name!r}; it has {_listed(classes)}.")
        if not 0 < threshold < 1:
            raise ValueError(f"The threshold of {name} must lie between 0 and 1, not at {threshold:g}.")


def failure_record(image: str, sentence: str) -> dict[str, Any]:
    """The result schema for an image that gave no prediction: all null but its name and the error."""
    record: dict[str, Any] = dict.fromkeys(RECORD_KEYS)
    return {**record, "image": image, "error": sentence}


def withhold_unfamiliar(outcome: Prediction | Failure) -> Prediction | Failure:
    """The outcome, or a Failure in the place of a prediction whose image is not familiar; for strict use."""
    if isinstance(outcome, Failure) or outcome.familiarity is None or outcome.familiarity.familiar:
        return outcome
    says = outcome.radiograph.header_says
    why = "" if says is None else f" (the file's header says that {says})"
    sentence = f"{outcome.image}: this does not look like a frontal chest X-ray{why}, so its masks were withheld."
    return Failure(outcome.image, sentence, outcome.familiarity)


def _verdict(familiarity: Familiarity | None) -> dict[str, bool | float | None]:
    if familiarity is None:
        return {"familiar": None, "familiarity": None}
    score = familiarity.score
    return {"familiar": bool(familiarity.familiar), "familiarity": None if score is None else float(score)}


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [float(end) for end in interval]


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(float(milliseconds), 3)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
