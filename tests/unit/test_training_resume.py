"""Training that was stopped, or killed at any moment, goes on to where an unbroken run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sgmsnet import checkpoint
from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.training import callbacks
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.run import train
from tests.needs import ROOT
from tests.unit.training_runs import metric_rows, recipe_values, state_of


def assert_same_weights(first: Path, second: Path, *, atol: float) -> None:
    one, other = state_of(first), state_of(second)
    assert (one["epoch"], one["global_step"]) == (other["epoch"], other["global_step"])
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], tensor, atol=atol, rtol=0, msg=name)


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
    about = json.loads((tmp_path / "broken" / "about.json").read_text(encoding="utf-8"))
    train(recipe, resume=tmp_path / "broken")
    told = json.loads((tmp_path / "broken" / "about.json").read_text(encoding="utf-8"))
    assert told == {**about, "resumed": [{**about, "started": told["resumed"][0]["started"]}]}
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
        pause = float(np.random.default_rng().uniform(0, 0.6))
        print(f"killed {pause:.4f} s after the first checkpoint")
        time.sleep(pause)  # any moment of any epoch
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
    unbroken = tmp_path / "unbroken"
    whole = command(
        tmp_path / "small.yaml", "--run", unbroken
    )  # with as many threads: sums in another order end elsewhere
    subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=300)
    assert_same_weights(unbroken, folder, atol=1e-6)
    ends = [metric_rows(run, "val_set/lungs_dice")[-1] for run in (folder, unbroken)]
    assert ends[1] > 0.8, "there is something to lose"
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_a_run_is_not_resumed_as_another_network_or_with_other_weights_and_stays_as_it_is(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path
) -> None:
    values = recipe_values(tiny_config, drawn, phases=[{"size": 64, "epochs": 1}])
    folder = train(Recipe.from_dict(values), folder=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    changed = {**values, "model": {**values["model"], "fine_stem": True}, "phases": [{"size": 64, "epochs": 2}]}
    with pytest.raises(ConfigError, match="trained another network"):
        train(Recipe.from_dict(changed), resume=folder)
    for option in ({"folder": tmp_path / "other"}, {"init": folder / "small.safetensors"}):
        with pytest.raises(ConfigError, match="goes on in its folder"):
            train(Recipe.from_dict(values), resume=folder, **option)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_resumed_run_takes_learning_rate_and_weight_decay_of_its_recipe(
    tiny_config: ModelConfig, drawn: Path, tmp_path: Path
) -> None:
    begun = recipe_values(tiny_config, drawn, phases=[{"size": 64, "epochs": 2}], weight_decay=0.1, learning_rate=1e-3)
    train(Recipe.from_dict(begun), folder=tmp_path / "run")
    before = state_of(tmp_path / "run")["optimizer_states"][0]["param_groups"]
    changed = {"phases": [{"size": 64, "epochs": 3}], "learning_rate": 5e-3, "weight_decay": 0.3}
    train(Recipe.from_dict({**begun, **changed}), resume=tmp_path / "run")
    state = state_of(tmp_path / "run")
    after = state["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in (*before, *after)] == [1e-3, 1e-3, 5e-3, 5e-3]
    assert [group["weight_decay"] for group in (*before, *after)] == [0.1, 0.0, 0.3, 0.0]
    assert state["lr_schedulers"][0]["base_lrs"] == [5e-3, 5e-3]
    unbroken = train(Recipe.from_dict({**begun, **changed}), folder=tmp_path / "unbroken")
    expected = state_of(unbroken)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert after[0]["lr"] == pytest.approx(expected)
