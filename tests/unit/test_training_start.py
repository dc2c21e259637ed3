"""Where training starts: from weights that fit in part or whole; what cannot be trained is refused in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgmsnet import checkpoint
from sgmsnet.cli import main
from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.model import SGMSNet
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.run import start_from, train
from tests.unit.training_runs import recipe_values


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


def test_a_folder_that_holds_a_run_is_not_written_over(tiny_config: ModelConfig, drawn: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(recipe_values(tiny_config, drawn))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(recipe, folder=tmp_path)


def test_weights_of_other_classes_start_all_but_their_part_of_the_head(
    tiny_config: ModelConfig, tiny_model: Path
) -> None:
    files = checkpoint.find(tiny_model)
    assert files.config.classes == ("lungs", "infection")
    config = ModelConfig.from_dict({**tiny_config.to_dict(), "classes": ["infection", "opacity", "lungs"]})
    torch.manual_seed(9)
    network = SGMSNet(config)
    head = network.head.weight.clone()
    assert start_from(network, tiny_model) == ["head of opacity"]
    source = checkpoint.load_network(files).state_dict()
    for name, tensor in network.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, source[name]), name
    assert torch.equal(network.head.weight[1], head[1])
    assert torch.equal(network.head.weight[[2, 0]], source["head.weight"])
    assert torch.equal(network.head.bias[[2, 0]], source["head.bias"])


def test_weights_of_another_width_leave_out_what_does_not_fit(tiny_config: ModelConfig, tiny_model: Path) -> None:
    wider = (tiny_config.decoder_widths[0] + 8, *tiny_config.decoder_widths[1:])
    left_out = start_from(SGMSNet(replace(tiny_config, decoder_widths=wider)), tiny_model)
    assert "head.weight" in left_out
    assert "head.bias" not in left_out
    assert not any(name.startswith("encoder") for name in left_out)


def test_a_memory_trained_with_another_scale_is_not_started_from(tiny_config: ModelConfig, tiny_model: Path) -> None:
    other = SGMSNet(replace(tiny_config, scale_query=not tiny_config.scale_query))
    with pytest.raises(ConfigError, match="was trained with scale_query: "):
        start_from(other, tiny_model)
    start_from(SGMSNet(replace(other.config, memory_stages=())), tiny_model)


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
