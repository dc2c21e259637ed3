"""Small training runs in plain values, and how to read what they leave behind. No assertions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from sgmsnet.config import ModelConfig

STILL = {
    "rotate_degrees": 0.0,
    "scale": 0.0,
    "aspect": 0.0,
    "shift": 0.0,
    "elastic_probability": 0.0,
    "gamma_probability": 0.0,
    "noise_probability": 0.0,
    "blur_probability": 0.0,
    "dropout_probability": 0.0,
}
"""No augmentation."""


def recipe_values(config: ModelConfig, drawn: Path, **changes: object) -> dict[str, Any]:
    """A recipe in plain values: one class, 64 pixels, batches of four in this process, FP32."""
    model = {**config.to_dict(), "classes": ["lungs"]}
    return {
        "name": "small",
        "model": model,
        "sources": [{"path": str(drawn), "masks": {"lungs": "masks"}}],
        "phases": [{"size": 64, "epochs": 2}],
        "augmentation": STILL,
        "batch_size": 4,
        "samples_per_epoch": 8,
        "workers": 0,
        "precision": "32-true",
        "ema_decay": 0.5,
        "warmup_steps": 4,
        **changes,
    }


def metric_rows(folder: Path, name: str) -> list[float]:
    """The logged values of a metric over the run's life, all versions joined."""
    values = []
    for table in sorted(folder.glob("metrics/version_*/metrics.csv")):
        with table.open(newline="", encoding="utf-8") as file:
            values += [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    return values


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
