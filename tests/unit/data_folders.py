"""Folders of data sets to write in a test, and what is asked of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmsnet.training.data import DatasetError, Sample, SourceConfig, find_samples

LUNGS = SourceConfig(path="set", masks={"lungs": "masks"})


def write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)


def stems(samples: list[Sample]) -> list[str]:
    return [sample.image.stem for sample in samples]


def assert_refused(source: SourceConfig, root: Path, *words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        find_samples(source, split="train", root=root)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
