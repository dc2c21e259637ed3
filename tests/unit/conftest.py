"""Fixtures that several files of unit tests share: labelled X-rays, fakes and files to open, images to train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.pipeline import Pipeline
from sgmsnet.training.data import Sample
from tests.fakes import FakeEngine
from tests.unit.evaluating import rows, save, xray

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(FakeEngine(), thresholds={"lungs": 0.5, "infection": 0.5}, temperature={})


@pytest.fixture
def two(tmp_path: Path) -> list[Sample]:
    """Two images; the truth of the first is half of what is found, that of the second is all of it."""
    samples = []
    for name, truth in (("a", rows(40, 90)), ("b", rows(40, 140))):
        image = save(tmp_path / "images" / f"{name}.png", xray())
        mask = save(tmp_path / "masks" / f"{name}.png", truth)
        samples.append(Sample(image=image, masks={"lungs": mask}, empty=frozenset(), group=name))
    return samples


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What `sgmsnet.load` opens in this test."""
    engine = FakeEngine()
    monkeypatch.setattr(
        sgmsnet,
        "load",
        lambda model, **options: Pipeline(engine, thresholds={"lungs": 0.5, "infection": 0.5}, temperature={}),
    )
    return engine


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync is for, a power cut, no test can see; the jobs that test_archive_resume kills do without this."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def client() -> TestClient:
    """REST on a fake engine."""
    from tests.unit.rest_calls import fake_desk, serve

    return serve(fake_desk())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train and val of four images each, 64x64: a bright rectangle in noise, and its mask."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(4):
            top, left = rng.integers(4, 30, 2)
            mask = np.zeros((64, 64), bool)
            mask[top : top + 25, left : left + 20] = True
            image = np.clip(60 + 120 * mask + rng.normal(0, 6, mask.shape), 0, 255).astype(np.uint8)
            for folder, pixels in (("images", image), ("masks", mask * np.uint8(255))):
                (root / "set" / part / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / "set" / part / folder / f"{i}.png")
    return root / "set"
