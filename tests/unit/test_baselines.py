"""The networks that SGMSNet is compared with: one interface, the sizes of their papers, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.model import SGMSNet
from sgmsnet.training.baselines import build_network
from sgmsnet.training.cost import inference_parameters, measure
from sgmsnet.training.recipe import NETWORKS, Recipe


def recipe(network: str, **changes: Any) -> Recipe:
    values = {
        "name": "small",
        "model": {"classes": ["lungs", "infection"]},
        "sources": [{"path": "a", "masks": {"lungs": "masks", "infection": "masks"}}],
        "phases": [{"size": 64, "epochs": 1}],
        "network": network,
        "network_width": 4,
        **changes,
    }
    return Recipe.from_dict(values)


@pytest.mark.parametrize("name", NETWORKS[1:])
def test_grey_levels_give_logits_of_their_size_and_every_parameter_learns(name: str) -> None:
    network = build_network(recipe(name))
    images = torch.randint(0, 256, (2, 1, 64, 96)).float()
    outputs = network(images)
    assert set(outputs) == ({"logits", "logits_3", "logits_4"} if name == "dynunet" else {"logits"})
    assert all(value.shape == (2, 2, 64, 96) for value in outputs.values())
    sum(value.sum() for value in outputs.values()).backward()
    idle = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not idle, "several processes would wait for the gradient of these"
    with torch.no_grad():
        assert set(network.eval()(images)) == {"logits"}


@pytest.mark.parametrize("name", NETWORKS[1:])
def test_brightness_and_contrast_of_the_image_do_not_matter(name: str) -> None:
    network = build_network(recipe(name)).eval()
    image = torch.randint(0, 200, (1, 1, 64, 64)).float()
    with torch.no_grad():
        torch.testing.assert_close(network(image)["logits"], network(40 + image)["logits"], atol=1e-3, rtol=1e-3)


def test_the_u_net_has_the_size_of_its_paper() -> None:
    network = build_network(recipe("unet", network_width=64, model={"classes": ["infection"]}, sources=INFECTION))
    assert inference_parameters(network) == pytest.approx(31.0e6, rel=0.02)  # 31.0 million, Ronneberger et al.


INFECTION = [{"path": "a", "masks": {"infection": "masks"}}]


def test_heads_that_serve_training_alone_do_not_count() -> None:
    plain = SGMSNet(ModelConfig(classes=("lungs",)))
    supervised = SGMSNet(ModelConfig(classes=("lungs",), deep_supervision=True))
    assert inference_parameters(plain) == inference_parameters(supervised) == sum(p.numel() for p in plain.parameters())


def test_gflop_are_two_operations_for_each_product_of_a_convolution() -> None:
    convolution = torch.nn.Conv2d(1, 6, 3, padding=1)
    found = measure({"one": convolution, "two": torch.nn.Sequential(convolution, torch.nn.ReLU())}, size=32, rounds=2)
    assert found["one"].gflop == pytest.approx(2 * 32 * 32 * 9 * 6 / 1e9, abs=1e-4)
    assert found["two"].gflop == found["one"].gflop
    assert found["one"].parameters == 6 * 9 + 6
    assert found["one"].latency_ms > 0


def test_an_input_that_is_too_small_for_a_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="64 or more"):
        build_network(recipe("dynunet", phases=[{"size": 32, "epochs": 1}]))
