"""Fixtures that several suites share: a tiny network on disk, and images of its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engines  # noqa: F401 - before any test imports ONNX Runtime, whose telemetry it switches off
from sgmsnet.config import ModelConfig


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """The shipped model's structure, 64x64 and about a thousandth of its size."""
    return ModelConfig(
        classes=("lungs", "infection"),
        height=64,
        width=64,
        encoder_layers=(1, 1, 1, 1),
        encoder_widths=(8, 16, 24, 32),
        decoder_widths=(8, 8, 16, 16),
        scale_query=True,
    )


@pytest.fixture(scope="session")
def example_images() -> np.ndarray:
    """uint8 (4, 1, 64, 64): two bright fields on a gradient, each image with other noise, one inverted."""
    rows, columns = np.mgrid[0:64, 0:64]
    fields = np.exp(-(((columns - 18) / 9) ** 2) - ((rows - 32) / 18) ** 2)
    fields = fields + fields[:, ::-1]
    images = []
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, 6, (64, 64))
        image = np.clip(60 + rows + 90 * fields + noise, 0, 255).astype(np.uint8)
        images.append(255 - image if seed == 3 else image)
    return np.stack(images)[:, None]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig, example_images: np.ndarray) -> Path:
    """tiny.safetensors with tiny.onnx and tiny.reference.npz beside it; random weights, masks of middling size."""
    import torch

    from export.to_onnx import export_in_place, write_reference
    from sgmsnet.checkpoint import find, save
    from sgmsnet.model import SGMSNet

    images = torch.from_numpy(example_images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SGMSNet(tiny_config)
    with torch.no_grad():
        for _ in range(20):  # batch statistics of real images, so that eval mode is not saturated
            network(images)
        logits = network.eval()(images)["logits"]
        spread = logits.std(dim=(0, 2, 3))
        network.head.weight.div_(spread.reshape(-1, 1, 1, 1))
        network.head.bias.copy_(-logits.mean(dim=(0, 2, 3)) / spread)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, network, name="tiny", thresholds={"lungs": 0.5, "infection": 0.4})
    export_in_place(find(path))
    write_reference(find(path), example_images[:2])
    return path
