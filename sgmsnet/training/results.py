"""What an evaluation found: rows of images and sums over them -> summaries by class. Reads and runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sgmsnet.measurements import INFECTION
from sgmsnet.prediction import Failure
from sgmsnet.training.bootstrap import Ratio, intervals, worst_interval
from sgmsnet.training.calibration import Reliability
from sgmsnet.training.data import Sample
from sgmsnet.training.metrics import Counts, summarise
from sgmsnet.training.surface import SurfaceDistance
from sgmsnet.training.sweep import LogitHistogram, Sweep

SMALL_SHARE = 0.02
"""Infected share of the lungs above which a healthy chest counts as a false alarm."""


@dataclass(frozen=True)
class Row:
    """One image's counts by labelled class, distances of outlines, and the infected share of its lungs.

    surfaces lacks the classes that are empty by definition, and is empty where distances were not asked for.
    infected_share is None where the model does not tell it; lungless says that it does, but found no lung here.
    """

    sample: Sample
    counts: dict[str, Counts]
    surfaces: dict[str, SurfaceDistance]
    infected_share: float | None
    lungless: bool = False

    @property
    def image(self) -> str:
        """The file's name."""
        return self.sample.image.name

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        record: dict[str, Any] = {
            "image": self.image,
            "group": self.sample.group,
            "source": self.sample.collection or None,
            "infected_share": self.infected_share,
        }
        for name, c in self.counts.items():
            record[name] = {
                "dice": float(c.dice[0]),
                "iou": float(c.iou[0]),
                "tp": int(c.tp[0]),
                "fp": int(c.fp[0]),
                "fn": int(c.fn[0]),
            }
            if surface := self.surfaces.get(name):
                record[name] |= {f"hd95_{surface.unit}": surface.hd95, "nsd": surface.nsd}
        return record


@dataclass(frozen=True)
class Evaluation:
    """Rows in order of the samples, the images that could not be read with the reason, and sums over pixels by class.

    histograms and reliability count every image that is labelled for the class, also those where it is empty by
    definition; Dice and distances leave these out.
    """

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    histograms: dict[str, LogitHistogram]
    reliability: dict[str, Reliability]

    @classmethod
    def join(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """That of all samples, from those of parts of them, as several processes make them."""
        histograms: dict[str, LogitHistogram] = {}
        reliability: dict[str, Reliability] = {}
        for part in parts:
            for name, histogram in part.histograms.items():
                histograms[name] = histograms[name] + histogram if name in histograms else histogram
            for name, counted in part.reliability.items():
                reliability[name] = reliability[name] + counted if name in reliability else counted
        return cls(
            tuple(row for part in parts for row in part.rows),
            tuple(failure for part in parts for failure in part.failures),
            histograms,
            reliability,
        )

    def outlined(self, name: str) -> list[Row]:
        """The rows with a mask of this class, which are those that Dice and distances are averaged over."""
        return [row for row in self.rows if name in row.counts and name not in row.sample.empty]

    def healthy(self) -> list[Row]:
        """The rows of chests without infection by definition whose infected share the model tells, or would tell."""
        known = (row for row in self.rows if INFECTION in row.sample.empty)
        return [row for row in known if row.infected_share is not None or row.lungless]

    def summary(self) -> dict[str, Any]:
        """Metrics by class, as fractions of 1; classes that are empty by definition apart, by infected share.

        Where sources.csv tells of more than one source, each has its own figures under "sources".
        """
        result: dict[str, Any] = {"classes": {}, "unreadable": len(self.failures)}
        for name in dict.fromkeys(name for row in self.rows for name in row.counts):
            if rows := self.outlined(name):
                reliability = self.reliability[name]
                result["classes"][name] = {
                    **summary_of(name, rows),
                    "calibration_error": reliability.error,
                    "calibration_error_claimed": reliability.error_claimed,
                    **_by_source(rows, partial(summary_of, name)),
                }
        if healthy := self.healthy():
            result["healthy"] = {**_healthy(healthy), **_by_source(healthy, _healthy)}
            for part, grown_up in (("adults", True), ("children", False)):
                if rows := [row for row in healthy if row.sample.grown_up is grown_up]:
                    result["healthy"][part] = _healthy(rows)
        return result

    def sweeps(self) -> dict[str, Sweep]:
        """Temperature, and Dice at every threshold, by class."""
        return {name: Sweep.of(histogram) for name, histogram in self.histograms.items()}

    def per_image(self) -> list[dict[str, Any]]:
        """One JSON-ready dictionary an image."""
        return [row.record() for row in self.rows]


def _by_source(rows: list[Row], summarised: Callable[[list[Row]], dict[str, Any]]) -> dict[str, Any]:
    """{"sources": {collection: summary}}, or nothing where there is but one; "not listed" is not in sources.csv."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.sample.collection or "not listed", []).append(row)
    return {"sources": {name: summarised(part) for name, part in sorted(parts.items())}} if len(parts) > 1 else {}


def summary_of(name: str, rows: list[Row]) -> dict[str, Any]:
    """Metrics of one class over rows that outline it, as fractions of 1, with intervals over groups.

    Empty truths count in all of them; where there are some, Dice per image is given without them too.
    """
    c = Counts.join([row.counts[name] for row in rows])
    one = np.ones(len(rows))
    filled = (c.tp + c.fn > 0).astype(np.float64)
    ratios: dict[str, Ratio] = {
        "dice_per_image": (c.dice, one),
        "iou_per_image": (c.iou, one),
        "dice_pooled": (2 * c.tp, 2 * c.tp + c.fp + c.fn),
        "iou_pooled": (c.tp, c.tp + c.fp + c.fn),
        "sensitivity": (c.tp, c.tp + c.fn),
        "specificity": (c.tn, c.tn + c.fp),
        "precision": (c.tp, c.tp + c.fp),
    }
    summary: dict[str, Any] = {**summarise(c), "empty_truths": int(len(rows) - filled.sum())}
    if summary["empty_truths"] and filled.any():
        ratios["dice_per_image_filled"] = (c.dice * filled, filled)
        summary["dice_per_image_filled"] = float(c.dice[filled > 0].mean())
    surfaces = [row.surfaces.get(name) for row in rows]
    for unit in ("px", "mm"):
        # Images with and without spacing are averaged apart: pixels and millimetres have no common mean.
        hd95 = np.array([s.hd95 if s and s.unit == unit else 0.0 for s in surfaces])
        nsd = np.array([s.nsd if s and s.unit == unit else 0.0 for s in surfaces])
        known = np.array([bool(s and s.unit == unit) for s in surfaces], np.float64)
        if known.any():
            ratios |= {f"hd95_{unit}": (hd95, known), f"nsd_2_{unit}": (nsd, known)}
            summary |= {f"hd95_{unit}": float(hd95.sum() / known.sum())}
            summary |= {f"nsd_2_{unit}": float(nsd.sum() / known.sum())}
    groups = [row.sample.group for row in rows]
    found = intervals(groups, ratios) | {"dice_worst_5_percent": worst_interval(groups, c.dice)}
    return {**summary, "groups": len(set(groups)), "intervals": found}


def _healthy(rows: list[Row]) -> dict[str, Any]:
    """An image without lungs has no share, and is no success: it counts as above 2 %, and in the median as 100 %."""
    shares = np.array([1.0 if row.infected_share is None else row.infected_share for row in rows])
    above = (shares > SMALL_SHARE).astype(np.float64)
    found = intervals([row.sample.group for row in rows], {"part_above_2_percent": (above, np.ones(len(rows)))})
    return {
        "images": len(shares),
        "without_lungs": sum(row.infected_share is None for row in rows),
        "infected_share_median": float(np.median(shares)),
        "part_above_2_percent": float(above.mean()),
        "intervals": found,
    }
