"""Training runs of a tiny network on drawn images: what a run leaves behind, learns, and goes on from."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from monai.metrics import compute_dice
from PIL import Image

from sgmsnet import checkpoint
from sgmsnet.cli import main
from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.model import SGMSNet
from sgmsnet.training import callbacks
from sgmsnet.training.data import SourceConfig, find_samples
from sgmsnet.training.dataset import SegmentationDataset
from sgmsnet.training.loaders import EvenShare, RecipeData
from sgmsnet.training.machine import Machine
from sgmsnet.training.module import SegmentationModule
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.run import start_from, train
from tests.needs import ROOT

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


def assert_same_weights(first: Path, second: Path, *, atol: float) -> None:
    one, other = state_of(first), state_of(second)
    assert (one["epoch"], one["global_step"]) == (other["epoch"], other["global_step"])
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], tensor, atol=atol, rtol=0, msg=name)


def test_a_run_leaves_everything_that_its_folder_is_for(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn))
    folder = train(recipe, folder=tmp_path / "run")
    assert Recipe.from_dict(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))) == recipe
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    assert about["torch"] == torch.__version__
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
    module = module_of(tiny_config, drawn, precision="16-mixed")
    assert not cast(Any, module.configure_optimizers())["optimizer"].defaults["fused"]


def test_fewer_images_than_a_batch_still_train(tiny_config: ModelConfig, drawn: Path) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn, batch_size=12, samples_per_epoch=0))
    assert len(RecipeData(recipe).train_dataloader()) == 1


def test_a_stopped_run_goes_on_to_the_same_end_as_an_unbroken_one(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn, phases=[{"size": 64, "epochs": 4}]))
    unbroken = train(recipe, folder=tmp_path / "unbroken")

    class Stopped(Exception):
        pass

    def stop_in_the_third_epoch(folder: Path) -> None:
        if state_of(folder)["epoch"] == 1:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "draw_curves", lambda folder: next(validations)(folder))
        validations = iter([lambda folder: None, lambda folder: None, stop_in_the_third_epoch])
        with pytest.raises(Stopped):
            train(recipe, folder=tmp_path / "broken")
    assert state_of(tmp_path / "broken")["epoch"] == 1
    train(recipe, resume=tmp_path / "broken")
    assert_same_weights(unbroken, tmp_path / "broken", atol=1e-5)
    ends = [metric_rows(folder, "val_set/lungs_dice")[-1] for folder in (unbroken, tmp_path / "broken")]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").glob("last*")] == ["last.ckpt"]
    assert checkpoint.find(tmp_path / "broken" / "small.safetensors").provenance["epochs"] == 4


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sgmsnet", "train", *map(str, arguments)]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_by_the_command(tiny_config: ModelConfig, drawn: Path, tmp_path: Path) -> None:
    values = recipe_values(
        tiny_config, drawn, phases=[{"size": 64, "epochs": 12}], workers=1, samples_per_epoch=16, learning_rate=5e-3
    )
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    folder = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    first = subprocess.Popen(
        command(tmp_path / "small.yaml", "--run", folder),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 180
        while not (folder / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(float(np.random.default_rng().uniform(0, 0.6)))  # any moment of any epoch
    finally:
        os.killpg(first.pid, signal.SIGKILL)  # its worker process with it
        first.wait()
    done = state_of(folder)["epoch"] + 1
    assert 1 <= done <= 12
    second = subprocess.run(
        command("--resume", folder), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert second.returncode == 0, second.stderr
    assert second.stdout.strip().endswith("small.safetensors")
    assert state_of(folder)["epoch"] == 11
    assert state_of(folder)["global_step"] == 48
    assert checkpoint.find(folder / "small.safetensors").provenance["epochs"] == 12
    unbroken = train(Recipe.from_dict(values), folder=tmp_path / "unbroken")
    ends = [metric_rows(run, "val_set/lungs_dice")[-1] for run in (folder, unbroken)]
    assert ends[1] > 0.8, "there is something to lose"
    assert ends[0] == pytest.approx(ends[1], abs=0.02)


@pytest.mark.slow
def test_two_processes_end_where_one_does_with_the_same_batches(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(
        tiny_config, drawn, phases=[{"size": 64, "epochs": 20}], samples_per_epoch=16, learning_rate=5e-3
    )
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["train", str(tmp_path / "small.yaml"), "--output", str(tmp_path / "two"), "--accelerator", "cpu"]
    done = subprocess.run(
        [*torchrun, "-m", "sgmsnet", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = train(Recipe.from_dict(values), folder=tmp_path / "one")
    two = tmp_path / "two"
    assert state_of(two)["global_step"] == state_of(one)["global_step"] == 80
    for name in ("val_set/lungs_dice", "val_set/lungs_dice_pooled"):
        ends = [metric_rows(folder, name)[-1] for folder in (one, two)]
        assert ends[0] > 0.8, "there is something to lose"
        assert ends[0] == pytest.approx(ends[1], abs=0.03)
    assert checkpoint.find(two / "small.safetensors").provenance["steps"] == 80
    # The weights that rank 0 stored score what both processes together said of them: metrics are reduced exactly.
    module = SegmentationModule(Recipe.from_dict(values), total_steps=1, source_names=["val_set"])
    module.load_state_dict(state_of(two)["state_dict"])
    with torch.no_grad():
        dice = [dice_of(module, batch) for batch in RecipeData(Recipe.from_dict(values)).val_dataloader()[0]]
    assert float(torch.cat(dice).mean()) == pytest.approx(metric_rows(two, "val_set/lungs_dice")[-1], abs=1e-5)


@pytest.mark.slow
def test_two_processes_go_on_from_their_last_epoch(tiny_config: ModelConfig, drawn: Path, tmp_path: Path) -> None:
    values = recipe_values(tiny_config, drawn, phases=[{"size": 64, "epochs": 1}])
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    folder, states = tmp_path / "run", []
    for arguments in ([tmp_path / "small.yaml", "--output", folder], ["phases.0.epochs=2", "--resume", folder]):
        words = ["-m", "sgmsnet", "train", *map(str, arguments), "--accelerator", "cpu"]
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(state_of(folder))
    assert [(state["epoch"], state["global_step"]) for state in states] == [(0, 2), (1, 4)]
    steps = [state["optimizer_states"][0]["state"][0]["step"] for state in states]
    assert [int(step) for step in steps] == [2, 4], "the optimiser went on, too"
    assert len(metric_rows(folder, "val_set/lungs_dice")) == 2
    assert checkpoint.find(folder / "small.safetensors").provenance["steps"] == 4


def dice_of(module: SegmentationModule, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Dice of each image of a batch, by MONAI."""
    found = (module.network.eval()(batch["image"])["logits"] > 0).float()
    return compute_dice(found, batch["mask"]).flatten()


def test_every_batch_of_several_processes_is_a_batch_of_one(
    tiny_config: ModelConfig, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn, samples_per_epoch=22))
    alone = list(cast(Any, RecipeData(recipe).train_dataloader()).batch_sampler)
    assert len(alone) == 5
    shares = []
    for rank in (0, 1):
        data = RecipeData(recipe)
        monkeypatch.setattr(RecipeData, "_rank", rank)
        monkeypatch.setattr(RecipeData, "_processes", 2)
        shares.append(list(cast(Any, data.train_dataloader()).batch_sampler))
    assert [sorted(one + two) for one, two in zip(*shares, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_validation_images_are_shared_out_evenly_and_count_once(
    tiny_config: ModelConfig, drawn: Path, processes: int
) -> None:
    whole = SegmentationDataset(find_samples(SourceConfig(path=str(drawn), masks={"m": "masks"})), ("m",), size=32)
    shares = [EvenShare(whole, rank=rank, processes=processes) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1, "no process waits for another"
    items = [share[i] for share in shares for i in range(len(share))]
    assert sum(float(item["labelled"].sum()) for item in items) == len(whole) == 8


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--devices", "2"], "--run DIR"),
        (["--devices", "3"], "shared out among 3"),
        (["--accelerator", "cpu", "--sync-batchnorm"], "GPUs"),
        (["--devices", "-1"], "1 or more"),
    ],
)
def test_processes_that_cannot_work_together_are_refused(
    arguments: list[str], word: str, drawn: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f'sources=[{{path: "{drawn}", masks: {{lungs: masks}}}}]'
    assert main(["train", "lungs", source, "batch_size=4", *arguments]) == 2
    assert word in capfd.readouterr().err


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Machine().processes, Machine().strategy) == (1, "auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "12")
    machine = Machine()
    assert (machine.devices, machine.nodes, machine.strategy) == (4, 3, "ddp")
    assert machine.share(24) == 2


def test_a_folder_that_holds_a_run_is_not_written_over(tiny_config: ModelConfig, drawn: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(recipe, folder=tmp_path)


def test_weights_of_other_classes_start_all_but_the_head(tiny_config: ModelConfig, tiny_model: Path) -> None:
    config = ModelConfig.from_dict({**tiny_config.to_dict(), "classes": ["lungs"]})
    torch.manual_seed(9)
    network = SGMSNet(config)
    head = network.head.weight.clone()
    left_out = start_from(network, tiny_model)
    assert left_out == ["head.weight", "head.bias"]
    assert torch.equal(network.head.weight, head)
    source = checkpoint.load_network(checkpoint.find(tiny_model)).state_dict()
    for name, tensor in network.state_dict().items():
        if name not in left_out:
            assert torch.equal(tensor, source[name]), name


def test_init_reaches_the_network_that_is_trained(
    tiny_config: ModelConfig, tiny_model: Path, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(
        tiny_config, drawn, learning_rate=1e-12, weight_decay=0.0, phases=[{"size": 64, "epochs": 1}]
    )
    folder = train(Recipe.from_dict(values), folder=tmp_path / "run", init=tiny_model)
    source = checkpoint.load_network(checkpoint.find(tiny_model)).state_dict()
    trained = checkpoint.load_network(checkpoint.find(folder / "small.safetensors")).state_dict()
    weights = [name for name in trained if name.endswith("weight") and not name.startswith("head")]
    assert len(weights) > 20
    for name in weights:
        torch.testing.assert_close(trained[name], source[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["cxr", "batchsize=3"], "batchsize"),
        (["cxr", "sources.0.path=nowhere"], "nowhere"),
        ([], "recipe"),
        (["--resume", "nowhere"], "no checkpoint"),
        (["lungs", "sources={drawn}", "--init", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_trained_ends_with_exit_code_2_and_one_sentence(
    arguments: list[str], word: str, drawn: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f'[{{path: "{drawn}", masks: {{lungs: masks}}}}]'
    arguments = [argument.replace("{drawn}", source) for argument in arguments]
    where = [] if "--resume" in arguments else ["--run", str(tmp_path / "run")]
    assert main(["train", *arguments, *where]) == 2
    [line] = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert word in line
    assert not (tmp_path / "run").exists(), "a run that never began leaves no folder"
