"""Training runs of a tiny network on drawn images: what a run leaves behind and learns, and the steps it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from PIL import Image

from sgmsnet import checkpoint
from sgmsnet.config import ModelConfig
from sgmsnet.model import SGMSNet
from sgmsnet.training.loaders import RecipeData
from sgmsnet.training.machine import Machine
from sgmsnet.training.module import SegmentationModule
from sgmsnet.training.recipe import Recipe, load_recipe
from sgmsnet.training.run import averaging_decay, precision_of, train
from sgmsnet.training.scoreboard import load_comparison
from tests.unit.training_runs import metric_rows, recipe_values, state_of


def test_a_run_leaves_everything_that_its_folder_is_for(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn))
    folder = train(recipe, folder=tmp_path / "run")
    assert Recipe.from_dict(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))) == recipe
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    assert about["torch"] == torch.__version__
    assert about["precision"] == precision_of(recipe, Machine())
    assert about["revision"]
    assert len(metric_rows(folder, "val_set/lungs_dice")) == 2
    assert len(metric_rows(folder, "train_loss")) >= 2
    assert list((folder / "tensorboard").glob("events.*"))
    with Image.open(folder / "curves.png") as curves:
        assert curves.width > 500
    files = checkpoint.find(folder / "small.safetensors")
    assert files.config.classes == ("lungs",)
    assert files.provenance["recipe"] == recipe.to_dict()
    assert (files.provenance["epochs"], files.provenance["steps"]) == (2, 4)
    said = "".join(capfd.readouterr())
    assert "litlogger" not in said
    assert "Warning" not in said


def test_the_weights_file_holds_the_averaged_weights_of_the_last_epoch(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path
) -> None:
    folder = train(Recipe.from_dict(recipe_values(tiny_config, drawn)), folder=tmp_path / "run")
    stored = checkpoint.load_network(checkpoint.find(folder / "small.safetensors")).state_dict()
    state = state_of(folder)
    different = 0
    for name, tensor in stored.items():
        if name.endswith("num_batches_tracked"):  # counts training steps and is not stored
            continue
        torch.testing.assert_close(tensor, state["state_dict"][f"network.{name}"], atol=2e-3, rtol=2e-3, msg=name)
        different += not torch.equal(
            state["state_dict"][f"network.{name}"], state["current_model_state"][f"network.{name}"]
        )
    assert different > 20, "the average is not the last step"


@pytest.mark.parametrize("steps", [4, 20, 120, 660, 5000])
def test_of_the_first_step_s_weights_little_is_left_in_the_average(
    tiny_config: ModelConfig, drawn: Path, steps: int
) -> None:
    recipe = Recipe.from_dict({**recipe_values(tiny_config, drawn), "ema_decay": 0.998})
    decay = averaging_decay(recipe, total_steps=steps)
    assert decay ** (steps - 1) < (0.2 if steps == 4 else 0.08), "without a limit 79 % after 120 steps"
    assert decay == 0.998 or steps < 1500


def test_published_trainings_are_averaged_as_they_were() -> None:
    """docs/scoreboard-cpu and docs/lungs-cpu-sources: 1,200 and 600 steps."""
    board = load_comparison("scoreboard-cpu")
    recipes = {1200: board.recipe_of(board.rows[0], 1), 600: load_recipe("lungs-cpu")}
    for steps, recipe in recipes.items():
        assert recipe.epochs * recipe.samples_per_epoch // recipe.batch_size == steps
        assert averaging_decay(recipe, total_steps=steps) == recipe.ema_decay == 0.995


@pytest.mark.slow
def test_four_images_are_learned_by_heart(tiny_config: ModelConfig, drawn: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):  # validate on what is trained
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / part).symlink_to(drawn / "train")
    values = recipe_values(
        tiny_config,
        tmp_path / "set",
        phases=[{"size": 64, "epochs": 4}],
        samples_per_epoch=320,
        learning_rate=1e-2,
        ema_decay=0.8,
    )
    folder = train(Recipe.from_dict(values), folder=tmp_path / "run")
    assert metric_rows(folder, "val_set/lungs_dice")[-1] > 0.99


def test_phases_of_different_size_train_at_their_size(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = SGMSNet.forward

    def watched(self: SGMSNet, images: torch.Tensor) -> Any:
        sizes.append(images.shape[-1])
        return forward(self, images)

    monkeypatch.setattr(SGMSNet, "forward", watched)
    phases = [{"size": 32, "epochs": 2}, {"size": 96, "epochs": 1}]
    folder = train(Recipe.from_dict(recipe_values(tiny_config, drawn, phases=phases)), folder=tmp_path / "run")
    assert sizes == [32, 32, 32] * 2 + [96, 96, 96]  # two training steps and one of validation in every epoch
    assert len(metric_rows(folder, "val_set/lungs_dice")) == 3


def test_sources_that_label_different_classes_train_one_network(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(tiny_config, drawn)
    values["model"]["classes"] = ["lungs", "infection"]
    source = str(drawn)
    values["sources"] = [
        {"path": source, "masks": {"lungs": "masks"}},
        {"path": source, "masks": {"infection": "masks"}, "weight": 3.0},
    ]
    folder = train(Recipe.from_dict(values), folder=tmp_path / "run")
    assert metric_rows(folder, "val_set/lungs_dice")
    assert metric_rows(folder, "val_set_/infection_dice")
    with (folder / "metrics" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        assert "val_set/infection_dice" not in file.readline()


def module_of(config: ModelConfig, drawn: Path, **changes: object) -> SegmentationModule:
    recipe = Recipe.from_dict(recipe_values(config, drawn, **changes))
    return SegmentationModule(recipe, total_steps=10, source_names=["val_set"])


def test_gradients_are_clipped_by_their_norm_with_the_fused_optimiser(tiny_config: ModelConfig, drawn: Path) -> None:
    module = module_of(tiny_config, drawn)
    optimizer = cast(Any, module.configure_optimizers())["optimizer"]
    assert optimizer.defaults["fused"]
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.configure_gradient_clipping(optimizer, 0.5, "norm")
    total = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(0.5, rel=1e-3)


def test_scaled_gradients_of_fp16_leave_the_fused_optimiser_out(tiny_config: ModelConfig, drawn: Path) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn))
    module = SegmentationModule(recipe, total_steps=10, source_names=["val_set"], fused=False)
    assert not cast(Any, module.configure_optimizers())["optimizer"].defaults["fused"]


def on_a_machine(monkeypatch: pytest.MonkeyPatch, *, cpu: str = "", gpu: bool = False, gpu_bf16: bool = False) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, cpu: True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16)


@pytest.mark.parametrize(
    ("machine", "accelerator", "precision"),
    [
        ({"cpu": "avx512_bf16"}, "auto", "bf16-mixed"),
        ({"cpu": "amx_bf16"}, "auto", "bf16-mixed"),
        ({"cpu": "bf16"}, "auto", "bf16-mixed"),  # Arm
        ({"cpu": "avx2"}, "auto", "32-true"),
        ({"gpu": True, "gpu_bf16": True}, "auto", "bf16-mixed"),
        ({"gpu": True}, "gpu", "16-mixed"),
        ({"gpu": True, "gpu_bf16": True}, "cpu", "32-true"),
    ],
)
def test_precision_is_what_the_hardware_multiplies(
    machine: dict[str, Any],
    accelerator: str,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: ModelConfig,
    drawn: Path,
) -> None:
    on_a_machine(monkeypatch, **machine)
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn, precision="auto"))
    assert precision_of(recipe, Machine(accelerator=accelerator)) == precision
    named = Recipe.from_dict(recipe_values(tiny_config, drawn, precision="bf16-true"))
    assert precision_of(named, Machine(accelerator=accelerator)) == "bf16-true"


def test_fewer_images_than_a_batch_still_train(tiny_config: ModelConfig, drawn: Path) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn, batch_size=12, samples_per_epoch=0))
    assert len(RecipeData(recipe).train_dataloader()) == 1
