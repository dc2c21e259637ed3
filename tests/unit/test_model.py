"""One tester for every configuration: any size forward, finite gradients, save and load, export with parity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.to_onnx import OPSET, OPSET_JETPACK_6_0, export
from sgmsnet.checkpoint import find, load_network, save
from sgmsnet.config import NAMED, STRIDES, ConfigError, ModelConfig
from sgmsnet.model import SGMSNet, load_encoder

SMALL = {
    "height": 64,
    "width": 64,
    "encoder_layers": (1, 1, 1, 1),
    "encoder_widths": (8, 16, 24, 32),
    "decoder_widths": (8, 8, 16, 16),
}
PAPER = replace(NAMED["paper"], **SMALL)
CONFIGURATIONS = {
    **{name: replace(config, **SMALL) for name, config in NAMED.items()},
    "no memory": replace(PAPER, memory_stages=()),
    "no gates": replace(PAPER, gates=False),
    "no spatial attention": replace(PAPER, spatial_attention=False),
    "memory at two stages": replace(PAPER, memory_stages=(4, 5)),
    "stem skip": replace(PAPER, stem_skip=True),
    "fine stem": replace(PAPER, fine_stem=True),
    "deep supervision": replace(PAPER, deep_supervision=True),
    "three classes": replace(PAPER, classes=("lungs", "infection", "heart")),
    "wide": replace(PAPER, height=64, width=96),
    "all": replace(NAMED["cxr"], **SMALL, memory_stages=(2, 5), stem_skip=True, fine_stem=True, deep_supervision=True),
}
NEWER_EXPORTER = ("paper", "cxr", "plain", "all")
"""The others are exported by the older one, which takes a tenth of the time."""


@pytest.mark.parametrize("classes", ["opacity", ["overlay"], ["lungs", "gate_5"], ["memory_4"]])
def test_classes_are_a_list_and_not_called_as_other_results_are(classes: object) -> None:
    with pytest.raises(ConfigError, match=r"list of names|name of another result"):
        ModelConfig.from_dict({"classes": classes})


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def network(request: pytest.FixtureRequest) -> SGMSNet:
    with torch.random.fork_rng():
        torch.manual_seed(1)  # a draw without a dead unit in the narrow attention of any of them
        return SGMSNet(request.param)


def _images(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, 1, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 65), (33, 130)])
def test_any_size_gives_the_outputs_that_the_configuration_names(network: SGMSNet, height: int, width: int) -> None:
    with torch.inference_mode():
        outputs = network.eval()(_images(2, height, width))
    config = network.config
    assert tuple(outputs) == config.outputs
    assert outputs["logits"].shape == (2, len(config.classes), height, width)
    assert outputs["embedding"].shape == (2, config.encoder_widths[3])
    for name in config.attention:
        stride = STRIDES[int(name.rsplit("_")[-1])]
        assert outputs[name].shape == (2, 1, -(-height // stride), -(-width // stride)), name
        assert 0 <= outputs[name].min() <= outputs[name].max() <= 1, name
    assert all(value.isfinite().all() for value in outputs.values())


def test_every_parameter_gets_a_finite_gradient(network: SGMSNet) -> None:
    if network.encoder.fine is not None:  # begins at zero, so nothing reaches what is before it in the first step
        torch.nn.init.normal_(network.encoder.fine.conv3.weight, std=0.1)
    outputs = network.train()(_images(3, 64, 64))
    heads = [value for name, value in outputs.items() if name.startswith("logits")]
    assert len(heads) == (4 if network.config.deep_supervision else 1)
    torch.stack([(head - 1).square().mean() for head in heads]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias in front of a batch norm, as the published gates have, is subtracted again.
        if not name.endswith(".0.bias"):
            assert parameter.grad.abs().max() > 0, name


def test_a_fine_stem_leaves_a_trained_network_as_it_was_until_it_is_trained() -> None:
    plain = SGMSNet(PAPER).eval()
    fine = SGMSNet(replace(PAPER, fine_stem=True)).eval()
    assert all("fine." in key for key in fine.load_state_dict(plain.state_dict(), strict=False).missing_keys)
    images = _images(2, 64, 96)
    with torch.inference_mode():
        assert torch.equal(fine(images)["logits"], plain(images)["logits"])
    fine.train()(images)["logits"].square().mean().backward()
    grown = fine.encoder.fine.conv3.weight.grad
    assert grown is not None
    assert grown.abs().max() > 0, "it can be trained"


def test_saved_and_loaded_it_answers_alike(network: SGMSNet, tmp_path: Path) -> None:
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point() and value.ndim > 1:
                value.copy_(value.half())  # what the file keeps, so that equality is exact
    loaded = load_network(find(save(tmp_path / "x.safetensors", network, name="x")))
    images = _images(2, 64, 96)
    with torch.inference_mode():
        expected, found = network.eval()(images), loaded(images)
    assert tuple(found) == tuple(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)


def test_exported_it_answers_as_in_pytorch(network: SGMSNet, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    files = find(save(tmp_path / "x.safetensors", network, name="x"))
    newer = request.node.callspec.id in NEWER_EXPORTER
    graph = export(files, tmp_path / "graph.onnx", opset=OPSET if newer else OPSET_JETPACK_6_0)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert tuple(names) == network.config.outputs
    for batch in (1, 3):
        images = _images(batch, network.config.height, network.config.width)
        with torch.inference_mode():
            expected = load_network(files)(images)
        for name, value in zip(names, session.run(names, {"images": images.numpy()}), strict=True):
            np.testing.assert_allclose(value, expected[name].numpy(), rtol=0, atol=1e-3, err_msg=name)


def _torchvision_keys(layers: tuple[int, ...]) -> set[str]:
    """Keys of a torchvision ResNet of basic blocks without its classifier: conv, its batch norm, and so on."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = {"conv1.weight", *(f"bn1.{part}" for part in norm)}
    for stage, blocks in enumerate(layers, start=1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            for number in (1, 2):
                keys |= {f"{place}.conv{number}.weight", *(f"{place}.bn{number}.{part}" for part in norm)}
            if block == 0 and stage > 1:
                keys |= {f"{place}.downsample.0.weight", *(f"{place}.downsample.1.{part}" for part in norm)}
    return keys


def test_encoder_keys_are_those_of_resnet34() -> None:
    with torch.device("meta"):
        keys = set(SGMSNet(NAMED["paper"]).encoder.state_dict())
    assert keys == _torchvision_keys((3, 4, 6, 3))
    assert len(keys) == 216  # torchvision's resnet34 has 218 with fc.weight and fc.bias


def test_imagenet_weights_load_by_name_with_the_colours_of_the_stem_summed() -> None:
    network, source = SGMSNet(PAPER), SGMSNet(PAPER)
    state = dict(source.encoder.state_dict())
    state["conv1.weight"] = torch.randn(8, 3, 7, 7)
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 32), torch.zeros(1000)
    load_encoder(network, state)
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        colour = torch.nn.functional.conv2d(grey.expand(1, 3, 32, 32), state["conv1.weight"], stride=2, padding=3)
        torch.testing.assert_close(network.encoder.conv1(grey), colour, rtol=1e-4, atol=1e-4)
    loaded = network.encoder.state_dict()
    for key in set(loaded) - {"conv1.weight"}:
        assert torch.equal(loaded[key], state[key]), key


def test_an_encoder_file_knows_no_fine_stem_and_leaves_it_as_it_is() -> None:
    network = SGMSNet(replace(PAPER, fine_stem=True))
    assert network.encoder.fine is not None
    before = {key: value.clone() for key, value in network.encoder.fine.state_dict().items()}
    source = SGMSNet(PAPER).encoder.state_dict()
    load_encoder(network, source)
    assert torch.equal(network.encoder.conv1.weight, source["conv1.weight"])
    assert all(torch.equal(value, before[key]) for key, value in network.encoder.fine.state_dict().items())


def test_an_encoder_that_does_not_fit_is_refused() -> None:
    state = dict(SGMSNet(PAPER).encoder.state_dict())
    with pytest.raises(ValueError, match=r"layer4\.0\.conv2\.weight"):
        load_encoder(SGMSNet(PAPER), {key: value for key, value in state.items() if key != "layer4.0.conv2.weight"})
    state["bn1.weight"] = torch.ones(9)
    with pytest.raises(ValueError, match=r"bn1\.weight has shape \(9,\)"):
        load_encoder(SGMSNet(PAPER), state)


def test_named_configurations_have_the_size_that_is_stated() -> None:
    with torch.device("meta"):
        sizes = {name: sum(value.numel() for value in SGMSNet(config).parameters()) for name, config in NAMED.items()}
    assert 28e6 < sizes["paper"] < 29e6
    assert sizes["plain"] < sizes["paper"] < sizes["cxr"]


def test_configuration_survives_a_round_trip() -> None:
    for config in CONFIGURATIONS.values():
        assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_begins_with_attention_half_open_and_small_logits(seed: int, example_images: np.ndarray) -> None:
    # Of a sigmoid's ends no gradient comes back.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SGMSNet(replace(NAMED["cxr"], height=64, width=64)).train()
    with torch.no_grad():
        outputs = network(torch.from_numpy(example_images))
    assert outputs["logits"].std() < 1
    for level in network.config.levels:
        ends = (outputs[f"spatial_{level}"] - 0.5).abs() > 0.48
        assert ends.float().mean() < 0.25, f"level {level}"
