"""What happens beside a training: curves after every epoch, and the time that it took over all resumptions."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Clock(Callback):
    """Seconds spent in training steps, kept in the checkpoint: a run that was stopped goes on counting."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 0:
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        now = time.perf_counter()
        self.seconds, self._started = self.seconds + now - self._started, now

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = float(state["seconds"])


class Curves(Callback):
    """Draws the logged metrics as curves.png after every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            draw_curves(self.folder)


def draw_curves(folder: Path) -> None:
    """Write curves.png from a run's metrics: training loss left, validation Dice by source and class right."""
    from matplotlib.figure import Figure

    rows: list[dict[str, str]] = []
    for table in sorted(folder.glob("metrics/version_*/metrics.csv")):
        with table.open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    names = dict.fromkeys(name for row in rows for name in row)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in names:
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if name == "train_loss":
            left.plot(*zip(*points, strict=True), linewidth=0.7)
        elif name.endswith("_dice") and points:
            right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel="validation Dice, mean over images", ylim=(0, 1))
    if right.lines:
        right.legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=110)
