"""Classes without a mask are learned from a model's answer; what is known stays as it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sgmsnet import checkpoint
from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.training.data import SourceConfig, find_samples
from sgmsnet.training.dataset import SegmentationDataset
from sgmsnet.training.loaders import RecipeData
from sgmsnet.training.pseudo_labels import pseudo_label
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.run import train
from tests.unit.training_runs import metric_rows, recipe_values

CPU = torch.device("cpu")


def drawn_images(drawn: Path, classes: tuple[str, ...]) -> SegmentationDataset:
    """Lungs are outlined; of the first image infection is known to be absent."""
    first, *others = find_samples(SourceConfig(path=str(drawn), masks={"lungs": "masks"}))[:3]
    samples = [dataclasses.replace(first, empty=frozenset(["infection"])), *others]
    return SegmentationDataset(samples, classes, size=64)


def test_only_what_is_neither_outlined_nor_absent_is_filled_in(drawn: Path, tiny_model: Path) -> None:
    before, dataset = (drawn_images(drawn, ("heart", "infection", "lungs")) for _ in range(2))
    pseudo_label(dataset, str(tiny_model), weight=0.25, device=CPU)
    np.testing.assert_array_equal(dataset.masks[:, 2], before.masks[:, 2])
    assert not dataset.masks[:, 0].any(), "the model knows no heart"
    assert not dataset.masks[0, 1].any()
    np.testing.assert_array_equal(dataset.labelled, [[0, 1, 1], [0, 0.25, 1], [0, 0.25, 1]])
    network = checkpoint.load_network(checkpoint.find(tiny_model)).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(dataset.images[1:]).float())["logits"][:, 1].sigmoid().numpy()
    assert 0.05 < expected.mean() < 0.95, "otherwise nothing is compared"
    difference = np.abs(dataset.masks[1:, 1] / 255 - expected)  # of BF16, where the processor has it
    assert difference.mean() < 0.01
    assert difference.max() < 0.1
    assert dataset[1]["mask"][1].numpy() == pytest.approx(dataset.masks[1, 1] / 255)


def test_training_images_are_filled_in_and_validation_images_are_not(
    tiny_config: ModelConfig, tiny_model: Path, drawn: Path
) -> None:
    values = recipe_values(tiny_config, drawn, pseudo_labels=str(tiny_model), pseudo_label_weight=0.5)
    values["model"]["classes"] = ["lungs", "infection"]
    source = {"path": str(drawn), "masks": {"lungs": "masks"}}
    values["sources"] = [source, {**source, "masks": {}, "empty": ["infection"], "weight": 0}]
    data = RecipeData(Recipe.from_dict(values))
    assert {tuple(row.tolist()) for batch in data.train_dataloader() for row in batch["labelled"]} == {(1, 0.5)}
    assert {tuple(row.tolist()) for batch in data.val_dataloader()[0] for row in batch["labelled"]} == {(1, 0)}


def test_a_class_that_no_source_labels_needs_a_model_that_knows_it(
    tiny_config: ModelConfig, tiny_model: Path, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(tiny_config, drawn, pseudo_labels=str(tiny_model))
    values["model"]["classes"] = ["opacity", "infection"]
    values["sources"] = [{"path": str(drawn), "masks": {"opacity": "masks"}}]
    folder = train(Recipe.from_dict(values), folder=tmp_path / "run")
    assert metric_rows(folder, "val_set/opacity_dice")
    assert checkpoint.find(folder / "small.safetensors", check_graph=False).config.classes == ("opacity", "infection")
    values["model"]["classes"] = ["opacity", "infection", "heart"]
    with pytest.raises(ConfigError, match=r"no source labels the class heart, nor does tiny"):
        train(Recipe.from_dict(values), folder=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_that_is_not_there_or_knows_no_class_ends_the_run_before_it_has_a_folder(
    tiny_config: ModelConfig, tiny_model: Path, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(tiny_config, drawn, pseudo_labels="nowhere.safetensors")
    with pytest.raises(checkpoint.WeightsError, match="nowhere"):
        train(Recipe.from_dict(values), folder=tmp_path / "run")
    values = recipe_values(tiny_config, drawn, pseudo_labels=str(tiny_model))
    values["model"]["classes"] = ["heart"]
    values["sources"] = [{"path": str(drawn), "masks": {"heart": "masks"}}]
    with pytest.raises(ConfigError, match="tiny knows none of the classes heart"):
        train(Recipe.from_dict(values), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
