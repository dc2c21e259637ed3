"""A recipe -> a trained network in a run's folder, through Lightning; stopped runs go on from their last epoch."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import ConcatDataset, DataLoader

from sgmsnet import checkpoint
from sgmsnet.config import ConfigError
from sgmsnet.model import SGMSNet, load_encoder
from sgmsnet.training.data import Sample, find_samples
from sgmsnet.training.dataset import (
    Item,
    SegmentationDataset,
    augmentation,
    balanced_sampler,
    collate_channels_last,
)
from sgmsnet.training.module import SegmentationModule
from sgmsnet.training.recipe import Recipe


def runs_root() -> Path:
    """The folder that SGMSNET_RUNS names; by default `sgmsnet-runs` in the home folder."""
    return Path(os.environ.get("SGMSNET_RUNS", Path.home() / "sgmsnet-runs"))


class RecipeData(pl.LightningDataModule):
    """The sources of a recipe at the size of the current epoch's phase."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.train_samples = [find_samples(source, split="train") for source in recipe.sources]
        validation: dict[str, list[Sample]] = {}
        for source in recipe.sources:
            name = f"val_{Path(source.path).name}" + {True: "_adults", False: "_children", None: ""}[source.adults]
            while name in validation:  # two sources may lie in folders of the same name
                name += "_"
            samples = find_samples(source, split="val")
            stride = max(len(samples) // recipe.validation_limit, 1)
            validation[name] = samples[::stride][: recipe.validation_limit]
        self.validation_samples = validation
        self._cache: dict[tuple[str, int], SegmentationDataset] = {}

    @property
    def samples_per_epoch(self) -> int:
        """Never less than a batch: images repeat rather than that an epoch trains nothing."""
        samples = self.recipe.samples_per_epoch or sum(map(len, self.train_samples))
        return max(samples, self.recipe.batch_size)

    def train_dataloader(self) -> DataLoader[Item]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        recipe, size = self.recipe, self.recipe.size(epoch)
        change = augmentation(recipe.augmentation, size=size)
        change.set_random_state(seed=recipe.seed + 1000 * epoch)
        parts = [self._dataset(f"train_{i}", samples, size, change) for i, samples in enumerate(self.train_samples)]
        # Each process draws its share; Lightning wraps the sampler for several devices.
        sampler = balanced_sampler(
            [len(part) for part in parts],
            [source.weight for source in recipe.sources],
            samples=self.samples_per_epoch,
            seed=recipe.seed + epoch,
        )
        return DataLoader(
            ConcatDataset(parts),
            batch_size=recipe.batch_size,
            sampler=sampler,
            drop_last=True,
            num_workers=recipe.workers,
            collate_fn=collate_channels_last,
            worker_init_fn=_seed_worker,
        )

    def val_dataloader(self) -> list[DataLoader[Item]]:
        size = self.recipe.size(self.trainer.current_epoch if self.trainer else 0)
        return [
            DataLoader(self._dataset(name, samples, size, None), batch_size=8, collate_fn=collate_channels_last)
            for name, samples in self.validation_samples.items()
        ]

    def _dataset(self, name: str, samples: list[Sample], size: int, transform: Any) -> SegmentationDataset:
        self._cache = {key: value for key, value in self._cache.items() if key[1] == size}
        if (name, size) not in self._cache:
            self._cache[name, size] = SegmentationDataset(samples, self.recipe.model.classes, size=size)
        self._cache[name, size].transform = transform
        return self._cache[name, size]


def _seed_worker(worker: int) -> None:
    # MONAI keeps its own random state in each transform: every worker process needs another one.
    info = torch.utils.data.get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    for part in dataset.datasets:
        if part.transform is not None:
            part.transform.set_random_state(seed=info.seed % 2**32)
    torch.set_num_threads(1)


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
        elif "dice" in name and points:
            right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel="validation Dice, mean over images", ylim=(0, 1))
    if right.lines:
        right.legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=110)


def train(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    resume: Path | None = None,
    init: str | Path | None = None,
    encoder: Path | None = None,
) -> Path:
    """Train a recipe and return the run's folder, which then holds NAME.safetensors.

    resume: folder of a stopped run. init: weights to start from (a name or .safetensors). encoder: a torchvision
    resnet34 weights file. Raises ConfigError, DatasetError or WeightsError in one sentence.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    folder = resume or folder or runs_root() / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if resume is None and (folder / "checkpoints").exists():
        raise ConfigError(f"{folder} holds a run already: --resume it, or choose another folder")
    data = RecipeData(recipe)
    steps_per_epoch = max(data.samples_per_epoch // recipe.batch_size, 1)
    module = SegmentationModule(
        recipe, total_steps=steps_per_epoch * recipe.epochs, source_names=list(data.validation_samples)
    )
    if init is not None:
        start_from(module.network, init)
    if encoder is not None:
        load_encoder(module.network, checkpoint.load_encoder_file(encoder))
    _describe(folder, recipe)
    with _without_noise():
        trainer = _trainer(recipe, folder, steps_per_epoch=steps_per_epoch)
        last = folder / "checkpoints" / "last.ckpt"
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if trainer.is_global_zero:
        draw_curves(folder)
        save_weights(folder, recipe)
    return folder


def _trainer(recipe: Recipe, folder: Path, *, steps_per_epoch: int) -> pl.Trainer:
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        save_last=True,
        save_top_k=1,
        every_n_epochs=1,
        # A resumed run, in a folder that was moved too, goes on writing last.ckpt and not last-v1.ckpt beside it.
        enable_version_counter=False,
    )
    return pl.Trainer(
        max_epochs=recipe.epochs,
        precision=recipe.precision,
        gradient_clip_val=recipe.clip_norm,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, steps_per_epoch),
        enable_model_summary=False,
        # A resumed run writes metrics/version_1 and so on; the curves join them.
        logger=[CSVLogger(folder, name="metrics"), TensorBoardLogger(folder, name="", version="tensorboard")],
        callbacks=[
            checkpoints,
            EMAWeightAveraging(decay=recipe.ema_decay),
            LearningRateMonitor("step"),
            Curves(folder),
        ],
    )


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leave out what Lightning says of itself: advertising, its own deprecations, advice that does not fit here."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def no_tip(record: logging.LogRecord) -> bool:
        return "Tip: For seamless cloud" not in record.getMessage()

    log.addFilter(no_tip)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # Only a resumed run gets as far as this: `train` refuses any other.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated")
            yield
    finally:
        log.removeFilter(no_tip)


def start_from(network: SGMSNet, model: str | Path) -> list[str]:
    """Copy the tensors of a weights file that fit by name and shape; return the names that did not.

    A head for other classes stays as initialised, so that a model can be fine-tuned to new classes.
    """
    state = checkpoint.load_network(checkpoint.find(model)).state_dict()
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def save_weights(folder: Path, recipe: Recipe, *, thresholds: dict[str, float] | None = None) -> Path:
    """Write NAME.safetensors in a run's folder from the averaged weights of its last checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    network = SGMSNet(recipe.model)
    network.load_state_dict(
        {
            key.removeprefix("network."): value
            for key, value in state["state_dict"].items()
            if key.startswith("network.")
        }
    )
    path = folder / f"{recipe.name}.safetensors"
    checkpoint.save(
        path,
        network.eval(),
        name=recipe.name,
        thresholds=thresholds or dict.fromkeys(recipe.model.classes, 0.5),
        temperature=dict.fromkeys(recipe.model.classes, 1.0),
        provenance={
            "recipe": recipe.to_dict(),
            "epochs": int(state["epoch"]) + 1,
            "steps": int(state["global_step"]),
            "revision": _revision(),
        },
    )
    return path


def _describe(folder: Path, recipe: Recipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")
    about = {
        "revision": _revision(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "started": time.ctime(),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2), encoding="utf-8")


def _revision() -> str:
    """Git revision of the code, with "+changes" where it was not committed; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"])
        head, changes = (
            subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+changes" if changes.strip() else "")
