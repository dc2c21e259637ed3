"""A calibration as Markdown, for docs/results.md. Measures nothing but counts and ranks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sgmsnet.interval import MISSED
from sgmsnet.measurements import INFECTION
from sgmsnet.prediction import logit_cut
from sgmsnet.training import share
from sgmsnet.training.calibrate import ADULTS, Calibration
from sgmsnet.training.familiarity import auroc
from sgmsnet.training.results import SMALL_SHARE
from sgmsnet.training.sweep import THRESHOLDS


def markdown(found: Calibration) -> str:
    """All tables, with headings of the third level."""
    return "\n\n".join([_chosen(found), _sweep(found), _familiarity(found), _interval(found)]) + "\n"


def _chosen(found: Calibration) -> str:
    rows = [
        [
            name,
            f"{found.temperature[name]:.3f}",
            f"{found.thresholds[name]:g}",
            f"{s.nll_at_temperature_1:.4f}",
            f"{s.nll:.4f}",
        ]
        for name, s in found.sweeps.items()
    ]
    return "### Temperature and thresholds\n\n" + _table(
        ["class", "temperature", "threshold", "negative log likelihood at temperature 1", "at this one"], rows
    )


def _sweep(found: Calibration) -> str:
    """Per-image Dice by threshold, with the false alarms on healthy adults that it costs."""
    sweep, temperature = found.sweeps[INFECTION], found.temperature[INFECTION]
    adults = [lung for lung in found.lungs if lung.source == ADULTS and lung.side == "both"]
    rows = []
    for i, threshold in enumerate(THRESHOLDS):
        cut = logit_cut(float(threshold), temperature)
        shares = np.array([np.interp(cut, share.KNOTS, lung.curve) for lung in adults])
        quiet = f"{100 * (shares <= SMALL_SHARE).mean():.0f} %" if len(adults) else ""
        per_image, pooled = sweep.dice_per_image, sweep.dice_pooled
        if per_image is not None and pooled is not None:
            rows.append([f"{threshold:g}", f"{100 * per_image[i]:.1f}", f"{100 * pooled[i]:.1f}", quiet])
    heading = f"{len(adults)} healthy adults with under 2 % infected"
    return "Infection by threshold:\n\n" + _table(["threshold", "Dice per image, %", "Dice pooled, %", heading], rows)


def _familiarity(found: Calibration) -> str:
    chests = np.concatenate(list(found.chests.values()))
    rows = [["validation chests", *_counts(chests), ""]]
    rows += [[f"of them {name}", *_counts(margins), ""] for name, margins in found.chests.items()]
    rows += [[f"chests, {name}", *_counts(margins), ""] for name, margins in found.blurred.items()]
    rows += _group("chests made unlike themselves", "made", found.made, chests)
    rows += _group("pictures of other kinds", "", found.others, chests)
    return "### Familiarity\n\n" + _table(["pictures", "number", "refused", "AUROC against validation chests"], rows)


def _group(title: str, prefix: str, kinds: Mapping[str, np.ndarray], chests: np.ndarray) -> list[list[str]]:
    if not kinds:
        return []
    every = np.concatenate(list(kinds.values()))
    rows = [[title, *_counts(every), f"{auroc(chests, every):.4f}"]]
    return rows + [[f"of them {name}", *_counts(m), f"{auroc(chests, m):.4f}"] for name, m in kinds.items()]


def _counts(margins: np.ndarray) -> list[str]:
    refused = int((margins < 0).sum())
    return [str(len(margins)), f"{refused} ({100 * refused / len(margins):.1f} %)"]


def _interval(found: Calibration) -> str:
    lungs = [lung for lung in found.lungs if lung.source != "healthy children"]
    rows = [
        [source, part, str(c.lungs), f"{100 * c.inside:.1f} %", f"{100 * c.width:.0f} points"]
        for (source, part), c in share.coverage(lungs).items()
    ]
    cuts = found.share_cuts
    text = (
        f"Cuts in logits: both lungs {cuts.both.lax:g} and {cuts.both.strict:g}, one lung {cuts.side.lax:g} and "
        f"{cuts.side.strict:g}; {100 * MISSED:g} % of the lung may be missed besides. Each patient judged by cuts from "
        "the other four fifths:"
    )
    header = ["validation part", "share of", "number", "truth inside", "mean width"]
    return f"### Interval of the infected share\n\n{text}\n\n" + _table(header, rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
