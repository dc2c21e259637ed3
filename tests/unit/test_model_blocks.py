"""The three blocks of the paper against their formulas, written out in NumPy position by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sgmsnet.model import GatedAttention, MemoryModule, SpatialAttentionModule, normalise


def _random(module: nn.Module, seed: int) -> nn.Module:
    """Random weights and batch-norm statistics, in eval mode and FP64, so that only the formula can differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
    return module.double().eval()


def _parameters(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def _conv1x1(x: np.ndarray, p: dict[str, np.ndarray], name: str) -> np.ndarray:
    """x (B, C, H, W) -> (B, C', H, W)."""
    return np.einsum("oc,bchw->bohw", p[f"{name}.weight"][:, :, 0, 0], x) + p[f"{name}.bias"].reshape(1, -1, 1, 1)


def _batch_norm(x: np.ndarray, p: dict[str, np.ndarray], name: str) -> np.ndarray:
    mean, variance, scale, shift = (
        p[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_published_parameter_names_are_kept() -> None:
    assert list(dict(MemoryModule(4, 3).named_parameters())) == [
        "memory_keys",
        "memory_values",
        "query_transform.weight",
        "query_transform.bias",
        "output_transform.weight",
        "output_transform.bias",
    ]
    assert list(dict(GatedAttention(F_g=4, F_l=3, F_int=2).named_parameters())) == [
        f"{branch}.{layer}.{part}"
        for branch in ("W_g", "W_x", "psi")
        for layer in (0, 1)
        for part in ("weight", "bias")
    ]
    assert list(dict(SpatialAttentionModule(16).named_parameters())) == [
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
    ]
    memory = MemoryModule(4, 3)
    assert memory.memory_keys.shape == memory.memory_values.shape == (1, 3, 4)


def test_gated_attention_is_its_formula() -> None:
    block = _random(GatedAttention(F_g=5, F_l=4, F_int=3), seed=0)
    gate, skip = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randn(2, 4, 3, 4, dtype=torch.float64)
    p = _parameters(block)
    summed = _batch_norm(_conv1x1(gate.numpy(), p, "W_g.0"), p, "W_g.1")
    summed = summed + _batch_norm(_conv1x1(skip.numpy(), p, "W_x.0"), p, "W_x.1")
    psi = _sigmoid(_batch_norm(_conv1x1(np.maximum(summed, 0), p, "psi.0"), p, "psi.1"))
    with torch.no_grad():
        gated, weights = block(gate, skip)
    assert weights.shape == (2, 1, 3, 4)
    np.testing.assert_allclose(weights.numpy(), psi, atol=1e-12)
    np.testing.assert_allclose(gated.numpy(), skip.numpy() * psi, atol=1e-12)


def test_spatial_attention_is_its_formula() -> None:
    block = _random(SpatialAttentionModule(16), seed=1)
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    p = _parameters(block)
    expected = _sigmoid(_conv1x1(np.maximum(_conv1x1(x.numpy(), p, "conv1"), 0), p, "conv2"))
    with torch.no_grad():
        weighted, weights = block(x)
    assert weights.shape == (2, 1, 3, 5)
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(weighted.numpy(), x.numpy() * expected, atol=1e-12)


@pytest.mark.parametrize("scale_query", [False, True])
def test_memory_is_its_formula(scale_query: bool) -> None:
    channels, slots = 6, 5
    block = _random(MemoryModule(channels, slots, scale_query=scale_query), seed=2)
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    p = _parameters(block)
    keys, values = p["memory_keys"][0], p["memory_values"][0]  # (slots, channels)
    queries = _conv1x1(x.numpy(), p, "query_transform")
    summed, certainty = x.numpy().copy(), np.empty((2, 1, 3, 4))
    for b, row, column in np.ndindex(2, 3, 4):
        query = queries[b, :, row, column] / (np.sqrt(channels) if scale_query else 1)
        products = np.exp([query @ key for key in keys])
        weights = products / products.sum()
        summed[b, :, row, column] += weights @ values
        entropy = -sum(weight * np.log(weight) for weight in weights)
        certainty[b, 0, row, column] = 1 - entropy / np.log(slots)
    with torch.no_grad():
        out, found = block(x)
    # The block computes product and softmax in FP32.
    np.testing.assert_allclose(out.numpy(), _conv1x1(summed, p, "output_transform"), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.numpy(), certainty, atol=1e-5)


def test_certainty_is_one_for_a_single_answering_slot_and_zero_for_none() -> None:
    block = MemoryModule(4, 8).eval()
    with torch.no_grad():
        nn.init.zeros_(block.query_transform.bias)
        nn.init.eye_(block.query_transform.weight[:, :, 0, 0])
        block.memory_keys.zero_()
        _, undecided = block(torch.ones(1, 4, 1, 1))
        block.memory_keys[0, 3] = 1000
        _, decided = block(torch.ones(1, 4, 1, 1))
    assert undecided.item() == pytest.approx(0, abs=1e-6)
    assert decided.item() == pytest.approx(1, abs=1e-6)


def test_memory_in_half_precision_stays_finite_where_the_product_passes_the_largest_half() -> None:
    block = MemoryModule(8, 4).half().eval()
    x = torch.full((1, 8, 2, 2), 200.0, dtype=torch.float16)
    with torch.no_grad():
        nn.init.zeros_(block.query_transform.bias)
        block.query_transform.weight.fill_(1.0)
        block.memory_keys[0, 0] = 100.0  # query 1600, product 8 * 1600 * 100 = 1,280,000
        out, certainty = block(x)
    assert torch.isfinite(out).all()
    assert certainty.min() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalise_is_mean_and_variance_of_each_image(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 1, 40, 30), generator=torch.Generator().manual_seed(3)).to(dtype)
    expected = images.double().numpy()
    expected = np.stack([(image - image.mean()) / np.sqrt(image.var() + 1) for image in expected])
    np.testing.assert_allclose(normalise(images).numpy(), expected, atol=1e-5)


def test_normalise_takes_a_constant_image() -> None:
    assert normalise(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)).abs().max() == 0
