"""Training by several processes: batches and images shared out evenly, the same end, and going on from an epoch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from monai.metrics import compute_dice

from sgmsnet import checkpoint
from sgmsnet.config import ModelConfig
from sgmsnet.training.data import SourceConfig, find_samples
from sgmsnet.training.dataset import SegmentationDataset
from sgmsnet.training.loaders import EvenShare, RecipeData
from sgmsnet.training.machine import Machine
from sgmsnet.training.module import SegmentationModule
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.run import train
from tests.needs import ROOT
from tests.unit.training_runs import metric_rows, recipe_values, state_of


def train_in_two_processes(*arguments: object) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "sgmsnet", "train", *map(str, arguments), "--accelerator", "cpu"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_end_where_one_does_with_the_same_batches(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(
        tiny_config, drawn, phases=[{"size": 64, "epochs": 20}], samples_per_epoch=16, learning_rate=5e-3
    )
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    train_in_two_processes(tmp_path / "small.yaml", "--output", tmp_path / "two")
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
        train_in_two_processes(*arguments)
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


def test_what_lightning_tells_the_processes_that_it_starts_is_not_taken_for_torchrun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    machine = Machine(devices=4)
    assert (machine.nodes, machine.processes) == (1, 4)


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Machine().processes, Machine().strategy) == (1, "auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "12")
    machine = Machine()
    assert (machine.devices, machine.nodes, machine.strategy) == (4, 3, "ddp")
    assert machine.share(24) == 2
