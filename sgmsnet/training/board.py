"""Scores of a comparison -> its standings, as Markdown, CSV and paired tests. Trains and runs nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sgmsnet.training.board_plots import Mark, draw_cost, draw_dice
from sgmsnet.training.cost import Cost
from sgmsnet.training.metrics import Counts
from sgmsnet.training.paired import PairedTest, holm, paired_test
from sgmsnet.training.results import Row, summary_of
from sgmsnet.training.scoreboard import Comparison, Part, RowConfig

# Key of the summary, heading, factor, decimals.
_MAIN = (
    ("dice_per_image", "Dice per image, %", 100, 1),
    ("iou_per_image", "IoU per image, %", 100, 1),
    ("dice_pooled", "Dice pooled, %", 100, 1),
    ("iou_pooled", "IoU pooled, %", 100, 1),
)
_MORE = (
    ("hd95_px", "HD95, pixels", 1, 1),
    ("nsd_2_px", "NSD at 2 pixels, %", 100, 1),
    ("hd95_mm", "HD95, mm", 1, 1),
    ("nsd_2_mm", "NSD at 2 mm, %", 100, 1),
    ("sensitivity", "sensitivity, %", 100, 1),
    ("specificity", "specificity, %", 100, 1),
    ("precision", "precision, %", 100, 1),
    ("calibration_error", "calibration error, %", 100, 2),
    ("dice_worst_5_percent", "Dice of the worst 5 %", 100, 1),
)
_PRECISIONS = {"32-true": "FP32", "bf16-mixed": "BF16", "16-mixed": "FP16"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one training of a row scored on one part."""

    row: RowConfig
    part: Part
    seed: int
    images: tuple[Row, ...]
    calibration_error: float
    seconds_per_step: float | None
    steps: int
    precisions: tuple[str, ...] = ()
    """Lightning's names of what it was trained in, in order."""

    @property
    def dice(self) -> np.ndarray:
        """Of each image, float64 (N,)."""
        return Counts.join([image.counts[self.part.label] for image in self.images]).dice


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A row on a part, over its seeds."""

    row: RowConfig
    summary: dict[str, Any]
    """Of all seeds' images together: patients are drawn again with all of their seeds."""
    dice: dict[int, np.ndarray]
    """Of each image, (N,), by seed."""
    images: tuple[str, ...]
    groups: tuple[str, ...]
    seconds_per_step: float | None
    cost: Cost
    test: PairedTest | None = None
    """Against the reference; None for the reference itself, and until it is finished."""
    p_holm: float | None = None
    precisions: tuple[str, ...] = ()
    """What its seeds were trained in."""
    seed_differences: dict[int, float] = field(default_factory=dict)
    """To the reference with the same seed, for the seeds that both have: those that were tested."""

    @property
    def verdict(self) -> str:
        """Of the test; "" without one."""
        if self.test is None or self.p_holm is None:
            return ""
        return self.test.verdict(self.p_holm, tuple(self.seed_differences.values()))


def standings(
    part: Part, scores: Sequence[Score], costs: Mapping[str, Cost], *, reference: str
) -> tuple[Standing, ...]:
    """The rows on a part in order of the scores, each tested against the reference on the same images."""
    here = [score for score in scores if score.part == part]
    names = dict.fromkeys(score.row.name for score in here)
    found = [_standing(part, [score for score in here if score.row.name == name], costs[name]) for name in names]
    against = next((one for one in found if one.row.name == reference), None)
    if against is None:
        return tuple(found)
    others = {
        i: seeds
        for i, one in enumerate(found)
        if one is not against and one.images == against.images and (seeds := one.dice.keys() & against.dice.keys())
    }
    tests = [paired_test(against.groups, _mean(found[i], seeds), _mean(against, seeds)) for i, seeds in others.items()]
    for (i, seeds), test, p in zip(others.items(), tests, holm([test.p_value for test in tests]), strict=True):
        own = found[i].dice
        differences = {seed: float(np.mean(own[seed] - against.dice[seed])) for seed in sorted(seeds)}
        found[i] = replace(found[i], test=test, p_holm=p, seed_differences=differences)
    return tuple(found)


def _mean(one: Standing, seeds: Iterable[int]) -> np.ndarray:
    """Of each image, over seeds, (N,)."""
    return np.asarray(np.mean([one.dice[seed] for seed in seeds], axis=0))


def _standing(part: Part, scores: Sequence[Score], cost: Cost) -> Standing:
    first = scores[0]
    summary = summary_of(part.label, [image for score in scores for image in score.images])
    summary["calibration_error"] = float(np.mean([score.calibration_error for score in scores]))
    summary["images"] = len(first.images)
    times = [score.seconds_per_step for score in scores if score.seconds_per_step is not None]
    return Standing(
        row=first.row,
        summary=summary,
        dice={score.seed: score.dice for score in scores},
        images=tuple(image.image for image in first.images),
        groups=tuple(image.sample.group for image in first.images),
        seconds_per_step=float(np.mean(times)) if times else None,
        precisions=tuple(dict.fromkeys(name for score in scores for name in score.precisions)),
        cost=cost,
    )


def write_board(
    comparison: Comparison,
    scores: Sequence[Score],
    costs: Mapping[str, Cost],
    conditions: Mapping[str, Any],
    *,
    folder: Path,
) -> None:
    """Write scoreboard.md, scoreboard.csv, dice.png and cost.png."""
    found = [(part, standings(part, scores, costs, reference=comparison.reference)) for part in comparison.parts]
    by_part = [(part, rows) for part, rows in found if rows]
    texts = [f"## {comparison.title}", _about(conditions), _training_time(scores)]
    texts += [text for part, rows in by_part for text in _tables(part, rows, comparison)]
    (folder / "scoreboard.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    _write_csv(folder / "scoreboard.csv", by_part)
    marks = {part.title or part.name: [_mark(one) for one in rows] for part, rows in by_part}
    draw_dice(marks, folder / "dice.png")
    draw_cost(marks, folder / "cost.png")


def _about(conditions: Mapping[str, Any]) -> str:
    return (
        "Intervals are 95 %, from draws of patients with all of their seeds; they do not hold what another seed would "
        "give, which the column of seeds shows. Dice per image and pooled are two families and must not be mixed. "
        "Threshold 0.5, masks at each image's own size. GFLOP: convolutions and matrix products of one image of "
        f"{conditions['size']}x{conditions['size']}, a multiplication and an addition are two. CPU: PyTorch "
        f"{conditions['torch']}, FP32, batch of one, {conditions['threads']} threads, median, load average "
        f"{conditions['load']} before. Distances in pixels are in those of each image's own size; the calibration "
        "error is over all pixels, of which most are background. Where one of two masks is empty, HD95 is the image's "
        "diagonal and NSD 0; where both are, Dice is 1."
    )


def _training_time(scores: Sequence[Score]) -> str:
    """How long the trainings behind the tables took, as far as their steps were timed."""
    runs = {(score.row.name, score.seed): score for score in scores}.values()
    timed = [one.seconds_per_step * one.steps for one in runs if one.seconds_per_step is not None]
    return f"Training: {sum(timed) / 3600:.2f} hours of steps in {len(timed)} of {len(runs)} runs."


def _tables(part: Part, found: Sequence[Standing], comparison: Comparison) -> list[str]:
    """The main table, further metrics, and the tests of one part."""
    titles = [one.row.title for one in found]
    summaries = [one.summary for one in found]
    count = f"{summaries[0]['images']} images in {summaries[0]['groups']} groups"
    main = {"network": titles}
    main["parameters, M"] = [f"{one.cost.parameters / 1e6:.2f}" for one in found]
    main["GFLOP"] = [f"{one.cost.gflop:.2f}" for one in found]
    main["CPU, ms"] = [f"{one.cost.latency_ms:.1f}" for one in found]
    main |= {heading: [_figure(s, key, factor, digits) for s in summaries] for key, heading, factor, digits in _MAIN}
    main["Dice of each seed"] = [", ".join(f"{100 * dice.mean():.1f}" for dice in one.dice.values()) for one in found]
    more = {"network": titles}
    for key, heading, factor, digits in _MORE:
        if any(key in summary for summary in summaries):
            more[heading] = [_figure(summary, key, factor, digits) for summary in summaries]
    more["training, s a step"] = [f"{one.seconds_per_step:.2f}" if one.seconds_per_step else "" for one in found]
    more["trained in"] = [", ".join(_PRECISIONS.get(name, name) for name in one.precisions) for one in found]
    texts = [f"### {part.title or part.name}: {part.label}, {count}", _markdown(main), _markdown(more)]
    if tests := [(one, one.test, one.p_holm) for one in found if one.test is not None and one.p_holm is not None]:
        reference = next(row.title for row in comparison.rows if row.name == comparison.reference)
        texts.append(
            f"Dice per image against {reference}, on the same images (means over the seeds that both have); p of "
            f"Wilcoxon's signed-rank test over patients, adjusted by Holm for the {len(tests)} tests. Better or worse "
            "takes both: an interval of the difference that leaves out zero, and an adjusted p below 0.05."
        )
        texts.append(
            _markdown(
                {
                    "network": [one.row.title for one, _, _ in tests],
                    "difference, points": [_difference(test) for _, test, _ in tests],
                    "seeds": [", ".join(map(str, one.seed_differences)) for one, _, _ in tests],
                    "p": [f"{test.p_value:.2g}" for _, test, _ in tests],
                    "p, adjusted": [f"{p:.2g}" for _, _, p in tests],
                    "verdict": [one.verdict for one, _, _ in tests],
                }
            )
        )
    return texts


def _difference(test: PairedTest) -> str:
    ends = f" ({100 * test.interval[0]:+.1f} to {100 * test.interval[1]:+.1f})" if test.interval else ""
    return f"{100 * test.difference:+.2f}{ends}"


def _figure(summary: Mapping[str, Any], key: str, factor: float, digits: int) -> str:
    if key not in summary:
        return ""
    text, interval = f"{factor * summary[key]:.{digits}f}", summary["intervals"].get(key)
    return f"{text} ({factor * interval[0]:.{digits}f} to {factor * interval[1]:.{digits}f})" if interval else text


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cells) for cells in zip(*columns.values(), strict=True)]
    return "\n".join(f"| {line} |" for line in lines)


def _write_csv(path: Path, by_part: Sequence[tuple[Part, Sequence[Standing]]]) -> None:
    """One line a row and part, figures as fractions of 1, in full."""
    keys = [key for key, *_ in (*_MAIN, *_MORE)]
    lines = []
    for part, found in by_part:
        for one in found:
            line: dict[str, Any] = {"part": part.name, "row": one.row.name, "title": one.row.title}
            line |= {"seeds": " ".join(map(str, one.dice)), "images": one.summary["images"]}
            line |= {"groups": one.summary["groups"], **one.cost.record(), "seconds_per_step": one.seconds_per_step}
            for key in keys:
                low, high = one.summary["intervals"].get(key) or (None, None)
                line |= {key: one.summary.get(key), f"{key}_low": low, f"{key}_high": high}
            low, high = (one.test.interval if one.test else None) or (None, None)
            line |= {"difference": one.test.difference if one.test else None, "difference_low": low}
            line |= {"difference_high": high, "p": one.test.p_value if one.test else None, "p_holm": one.p_holm}
            line |= {"verdict": one.verdict}
            lines.append(line)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(lines[0]))
        table.writeheader()
        table.writerows(lines)


def _mark(one: Standing) -> Mark:
    return Mark(
        title=one.row.title,
        dice=one.summary["dice_per_image"],
        interval=one.summary["intervals"].get("dice_per_image"),
        seeds=tuple(float(dice.mean()) for dice in one.dice.values()),
        latency_ms=one.cost.latency_ms,
        parameters=one.cost.parameters,
    )
