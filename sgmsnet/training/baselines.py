"""The networks that SGMSNet is compared with, MONAI's, behind the same forward pass; and which one a recipe means."""

from __future__ import annotations

from typing import Any

from monai.networks.nets import AttentionUnet, BasicUNet, BasicUNetPlusPlus, DynUNet
from torch import Tensor, nn

from sgmsnet.config import ConfigError
from sgmsnet.model import SGMSNet, normalise
from sgmsnet.training.recipe import Recipe

_BLOCK: dict[str, Any] = {"act": ("relu", {"inplace": True}), "norm": "batch"}


class Baseline(nn.Module):
    """One of MONAI's networks: grey levels in and logits by name out, normalised as SGMSNet normalises them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 1, H, W), grey levels -> logits (B, K, H, W); a DynUNet in training also logits_3, logits_4."""
        found = self.network(normalise(images))
        if isinstance(found, list):  # U-Net++ returns its heads in a list, of which one is left
            [found] = found
        if found.ndim == 4:
            return {"logits": found}
        heads = found.unbind(dim=1)  # (B, heads, K, H, W), the finest first
        return {"logits": heads[0]} | {f"logits_{2 + i}": head for i, head in enumerate(heads[1:], start=1)}


def build_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe; raises ConfigError for one that its input is too small for."""
    if recipe.network == "sgmsnet":
        return SGMSNet(recipe.model)
    width, classes = recipe.network_width, len(recipe.model.classes)
    if recipe.network == "dynunet" and min(phase.size for phase in recipe.phases) < 64:
        raise ConfigError("dynunet halves its input five times and needs a size of 64 or more")
    builders = {"unet": _unet, "attention-unet": _attention_unet, "unetplusplus": _unetplusplus, "dynunet": _dynunet}
    return Baseline(builders[recipe.network](width, classes))


def _unet(width: int, classes: int) -> nn.Module:
    """Five levels with batch normalisation. Source: Ronneberger et al., "U-Net", 2015, where the width is 64."""
    return BasicUNet(spatial_dims=2, in_channels=1, out_channels=classes, features=_features(width), **_BLOCK)


def _attention_unet(width: int, classes: int) -> nn.Module:
    """Five levels with gated skips. Source: Oktay et al., "Attention U-Net", 2018."""
    channels = _features(width)[:5]
    return AttentionUnet(spatial_dims=2, in_channels=1, out_channels=classes, channels=channels, strides=(2, 2, 2, 2))


def _unetplusplus(width: int, classes: int) -> nn.Module:
    """Five levels with nested skips and one head. Source: Zhou et al., "UNet++", 2018."""
    network = BasicUNetPlusPlus(
        spatial_dims=2, in_channels=1, out_channels=classes, features=_features(width), deep_supervision=False, **_BLOCK
    )
    for unused in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):  # MONAI computes these heads all the same
        setattr(network, unused, nn.Identity())
    return network


def _dynunet(width: int, classes: int) -> nn.Module:
    """Six stages of at most 512 channels with instance normalisation and two auxiliary heads, as nnU-Net plans in 2D.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, where the width is 32.
    """
    strides = (1, 2, 2, 2, 2, 2)
    return DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=classes,
        kernel_size=(3,) * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[min(width * 2**stage, 512) for stage in range(len(strides))],
        deep_supervision=True,
        deep_supr_num=2,
    )


def _features(width: int) -> tuple[int, ...]:
    return (width, 2 * width, 4 * width, 8 * width, 16 * width, width)
