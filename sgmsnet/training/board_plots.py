"""Two plots of a comparison: Dice with intervals, and Dice against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What the plots show of a row on a part."""

    title: str
    dice: float
    interval: tuple[float, float] | None
    seeds: tuple[float, ...]
    latency_ms: float
    parameters: int


def draw_dice(parts: Mapping[str, Sequence[Mark]], path: Path) -> None:
    """One panel a part: per-image Dice with its interval, and each seed as a small mark."""
    longest = max(map(len, parts.values()))
    figure = Figure(figsize=(5.5 * len(parts) + 2, 0.36 * longest + 1.4), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for panel, (title, marks) in zip(panels, parts.items(), strict=True):
        for height, mark in enumerate(marks):
            low, high = mark.interval or (mark.dice, mark.dice)
            panel.plot([100 * low, 100 * high], [height, height], color="C0")
            panel.plot([100 * seed for seed in mark.seeds], [height] * len(mark.seeds), "|", color="0.4")
            panel.plot(100 * mark.dice, height, "o", color="C0")
        panel.set_yticks(range(len(marks)), [mark.title for mark in marks])
        panel.invert_yaxis()
        panel.grid(axis="x", alpha=0.3)
        panel.set(title=title, xlabel="Dice, mean over images, % (95 % interval; | one seed)")
    figure.savefig(path, dpi=130)


def draw_cost(parts: Mapping[str, Sequence[Mark]], path: Path) -> None:
    """One row of panels a part: per-image Dice against latency on the CPU and against parameters."""
    figure = Figure(figsize=(12, 4.6 * len(parts)), layout="constrained")
    panels = figure.subplots(len(parts), 2, squeeze=False)
    for (left, right), (title, marks) in zip(panels, parts.items(), strict=True):
        for number, mark in enumerate(marks):
            for panel, cost in ((left, mark.latency_ms), (right, mark.parameters / 1e6)):
                low, high = mark.interval or (mark.dice, mark.dice)
                panel.plot([cost, cost], [100 * low, 100 * high], color=f"C{number % 10}", alpha=0.5)
                panel.plot(cost, 100 * mark.dice, "os^Dv"[number // 10], color=f"C{number % 10}", label=mark.title)
        left.set(title=title, xlabel="one image on the CPU, ms", ylabel="Dice, mean over images, %")
        right.set(xlabel="parameters, millions")
        right.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
        for panel in (left, right):
            panel.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
