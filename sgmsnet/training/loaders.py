"""The batches of a recipe: sources in their shares, at the size of the epoch, shared out among processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from engines.processor import usable_cores
from sgmsnet.training.data import Sample, find_samples, spread, unlabelled
from sgmsnet.training.dataset import (
    Item,
    SegmentationDataset,
    augmentation,
    collate_channels_last,
    draw,
)
from sgmsnet.training.pseudo_labels import pseudo_label
from sgmsnet.training.recipe import Recipe

VALIDATION_BATCH = 8


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
            validation[name] = spread(find_samples(source, split="val"), recipe.validation_limit)
        self.validation_samples = validation
        self._cache: dict[tuple[str, int], SegmentationDataset] = {}

    def lines(self) -> list[str]:
        """What trains and what validates, a sentence for each source; groups are patients where they are known."""
        result = []
        for source, train, validate in zip(
            self.recipe.sources, self.train_samples, self.validation_samples.values(), strict=True
        ):
            parts = [f"{len(part)} images of {len({s.group for s in part})} groups" for part in (train, validate)]
            missing = unlabelled(source)
            left_out = f"; {missing} without a mask are left out" if missing else ""
            result.append(f"{source.path}: {parts[0]} train, {parts[1]} are looked at after each epoch{left_out}")
        return result

    @property
    def samples_per_epoch(self) -> int:
        """Never less than a batch: images repeat rather than that an epoch trains nothing."""
        samples = self.recipe.samples_per_epoch or sum(map(len, self.train_samples))
        return max(samples, self.recipe.batch_size)

    def train_dataloader(self) -> DataLoader[Item]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        recipe, size = self.recipe, self.recipe.size(epoch)
        change = augmentation(recipe.augmentation, size=size)
        seeds = (recipe.seed, epoch, self._rank)
        change.set_random_state(seed=_seed(*seeds, 0))
        parts = [
            self._dataset(f"train_{i}", samples, size, change, fill_in=True)
            for i, samples in enumerate(self.train_samples)
        ]
        # A list: Lightning begins to iterate twice in some epochs, not in the first of a resumed run.
        drawn = draw(
            [len(part) for part in parts],
            [source.weight for source in recipe.sources],
            samples=self.samples_per_epoch,
            seed=recipe.seed,
            epoch=epoch,
        )
        return DataLoader(
            ConcatDataset(parts),
            batch_size=recipe.batch_size // self._processes,
            sampler=drawn if self._processes == 1 else self._share_of(drawn),
            drop_last=True,
            num_workers=self._workers,
            collate_fn=collate_channels_last,
            worker_init_fn=partial(_seed_worker, seeds=seeds),
            pin_memory=self._on_cuda,
        )

    def val_dataloader(self) -> list[DataLoader[Item]]:
        size = self.recipe.size(self.trainer.current_epoch if self.trainer else 0)
        return [
            DataLoader(
                EvenShare(self._dataset(name, samples, size, None), rank=self._rank, processes=self._processes),
                batch_size=VALIDATION_BATCH,
                collate_fn=collate_channels_last,
                pin_memory=self._on_cuda,
            )
            for name, samples in self.validation_samples.items()
        ]

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    @property
    def _workers(self) -> int:
        """One feeds a CPU that trains; a GPU is fed by its share of the cores, at most eight."""
        if self.recipe.workers >= 0:
            return self.recipe.workers
        if self.trainer is None or not self._on_cuda:
            return 1
        return min(max(usable_cores() // self.trainer.num_devices, 1), 8)

    def _share_of(self, drawn: Sequence[int]) -> list[int]:
        """Every n-th of the whole batches: all processes' batches together are the batches of one process."""
        whole = len(drawn) // self.recipe.batch_size * self.recipe.batch_size
        return list(drawn[self._rank : whole : self._processes])

    def _dataset(
        self, name: str, samples: list[Sample], size: int, transform: Any, *, fill_in: bool = False
    ) -> SegmentationDataset:
        self._cache = {key: value for key, value in self._cache.items() if key[1] == size}
        if (name, size) not in self._cache:
            dataset = SegmentationDataset(samples, self.recipe.model.classes, size=size)
            if fill_in and (model := self.recipe.pseudo_labels):
                device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
                pseudo_label(dataset, model, weight=self.recipe.pseudo_label_weight, device=device)
            self._cache[name, size] = dataset
        self._cache[name, size].transform = transform
        return self._cache[name, size]


class EvenShare(Dataset[Item]):
    """Every n-th item of a data set, as many for each of n processes: what is missing is an item without labels.

    Uneven shares would leave one process waiting for another that has finished.
    """

    def __init__(self, whole: SegmentationDataset, *, rank: int, processes: int) -> None:
        self.whole, self.rank, self.processes = whole, rank, processes

    def __len__(self) -> int:
        return -(-len(self.whole) // self.processes)

    def __getitem__(self, index: int) -> Item:
        """See SegmentationDataset.__getitem__."""
        position = index * self.processes + self.rank
        item = self.whole[min(position, len(self.whole) - 1)]
        return item if position < len(self.whole) else {**item, "labelled": torch.zeros_like(item["labelled"])}


def _seed(*numbers: int) -> int:
    """One seed of several numbers, such that no two lists of them share it but by chance."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _seed_worker(worker: int, *, seeds: tuple[int, int, int]) -> None:
    # MONAI keeps its own random state in each transform: every worker process needs another one. Not PyTorch's seed for
    # the worker, which tells how often Lightning began to iterate: a resumed run would end elsewhere.
    info = torch.utils.data.get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    for part in dataset.datasets:
        if part.transform is not None:
            part.transform.set_random_state(seed=_seed(*seeds, 1 + worker))
    torch.set_num_threads(1)
