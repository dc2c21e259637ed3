"""SGMSNet: ResNet-34 encoder, memory, gated skips, spatial attention; the whole network, readable from top to bottom.

Not here: reading images, weights files, losses. Source of the architecture: SGMSNet, IEEE CME 2025,
doi 10.1109/CME67420.2025.11239364. Parameter names of the three blocks are the published ones, those of the
encoder are torchvision's resnet34, so that weights of either load by name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgmsnet.config import ModelConfig


def normalise(images: Tensor) -> Tensor:
    """Grey levels (B, 1, H, W), 0 to 255 of any dtype -> float32 with mean 0 and variance about 1 per image.

    One grey level is added to the variance, so that a constant image gives zeros instead of a division by zero.
    """
    images = images.float()
    centred = images - _mean(images)
    variance = _mean(centred * centred)
    return centred / torch.sqrt(variance + 1.0)


def _mean(images: Tensor) -> Tensor:
    # By rows, then over rows: a runtime that adds 50,000 numbers one after the other loses digits, 224 it does not.
    return images.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


def upsample(features: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear, corners aligned."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He et al., "Deep Residual Learning", CVPR 2016."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class FineStem(nn.Module):
    """Three 3x3 convolutions, of which the last one halves: what is to be added to the stem's first convolution.

    It begins at zero, so that a network trained without it goes on as it was. Measured in docs/results.md.
    """

    def __init__(self, outputs: int, channels: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 3, stride=2, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, C, H / 2, W / 2)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.conv3(x)


class ResNetEncoder(nn.Module):
    """ResNet without its classifier, on one-channel images; keys as torchvision's resnet34 but for `fine`."""

    def __init__(self, layers: tuple[int, ...], widths: tuple[int, ...], *, fine: bool = False) -> None:
        super().__init__()
        self.fine = FineStem(widths[0]) if fine else None
        self.conv1 = nn.Conv2d(1, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], layers[0], stride=1)
        self.layer2 = _stage(widths[0], widths[1], layers[1], stride=2)
        self.layer3 = _stage(widths[1], widths[2], layers[2], stride=2)
        self.layer4 = _stage(widths[2], widths[3], layers[3], stride=2)

    def stem(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, C, H / 2, W / 2)."""
        x = self.conv1(images)
        if self.fine is not None:
            x = x + self.fine(images)
        return F.relu(self.bn1(x))

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Stage 2 to 5 as torchvision counts them, that is layer1 (after max pooling) to layer4."""
        if number == 2:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        stage: nn.Module = getattr(self, f"layer{number - 1}")
        return stage(x)


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride=stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)))


class MemoryModule(nn.Module):
    """Learned slots that every position may read from.

    out = output_transform(x + softmax(q kT) v),  q = query_transform(x)

    Source: SGMSNet, IEEE CME 2025. With `scale_query` q is first divided by sqrt(C) (Vaswani et al., 2017). Product
    and softmax are computed in FP32 whatever the precision around them: unscaled products pass FP16's largest number.
    """

    def __init__(self, channels: int, num_memories: int = 64, *, scale_query: bool = False) -> None:
        super().__init__()
        self.memory_keys = nn.Parameter(torch.randn(1, num_memories, channels))
        self.memory_values = nn.Parameter(torch.randn(1, num_memories, channels))
        self.query_transform = nn.Conv2d(channels, channels, 1)
        self.output_transform = nn.Conv2d(channels, channels, 1)
        self.scale = 1 / math.sqrt(channels) if scale_query else 1.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> features (B, C, H, W), certainty (B, 1, H, W) in [0, 1].

        Certainty is 1 - entropy(slot weights) / log(slots): 1 where one slot answers alone, 0 where all answer alike.
        """
        batch, channels, height, width = x.shape
        query = self.query_transform(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        with torch.autocast(x.device.type, enabled=False):
            scaled = query.float() * self.scale
            log_weights = F.log_softmax(scaled @ self.memory_keys.float().transpose(1, 2), dim=2)  # (B, HW, M)
            weights = log_weights.exp()
            read = weights @ self.memory_values.float()  # (B, HW, C)
            entropy = -(weights * log_weights).sum(dim=2)  # (B, HW)
        read = read.transpose(1, 2).reshape(batch, channels, height, width)
        certainty = 1 - entropy / math.log(self.memory_keys.shape[1])
        certainty = certainty.clamp(0, 1).reshape(batch, 1, height, width)
        return self.output_transform(x + read.to(x.dtype)), certainty


class GatedAttention(nn.Module):
    """Attention gate on a skip connection: the decoder decides which skip pixels pass.

    psi = sigmoid(BN(conv(relu(BN(conv(gate)) + BN(conv(skip))))));  out = skip * psi

    Source: Oktay et al., "Attention U-Net", 2018; SGMSNet, IEEE CME 2025, section 2.5.
    """

    def __init__(self, F_g: int, F_l: int, F_int: int) -> None:
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(F_g, F_int, 1), nn.BatchNorm2d(F_int))
        self.W_x = nn.Sequential(nn.Conv2d(F_l, F_int, 1), nn.BatchNorm2d(F_int))
        self.psi = nn.Sequential(nn.Conv2d(F_int, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """gate (B, G, H, W), skip (B, S, H, W) -> gated skip (B, S, H, W), psi (B, 1, H, W) in [0, 1]."""
        psi = self.psi(F.relu(self.W_g(gate) + self.W_x(skip)))
        return skip * psi, psi


class SpatialAttentionModule(nn.Module):
    """One weight per position: x * sigmoid(conv2(relu(conv1(x)))). Source: SGMSNet, IEEE CME 2025."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.conv2 = nn.Conv2d(in_channels // 8, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> weighted x (B, C, H, W), weights (B, 1, H, W) in [0, 1]."""
        weights = torch.sigmoid(self.conv2(F.relu(self.conv1(x))))
        return x * weights, weights


class DecoderLevel(nn.Module):
    """Upsample, gate the skip, concatenate, two 3x3 conv + BN + ReLU, spatial attention."""

    def __init__(self, inputs: int, skip: int, outputs: int, *, gate: bool, spatial: bool) -> None:
        super().__init__()
        self.gate = GatedAttention(inputs, skip, max(outputs // 2, 1)) if gate else None
        self.conv1 = nn.Conv2d(inputs + skip, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.spatial = SpatialAttentionModule(outputs) if spatial else None

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """x (B, C, h, w), skip (B, S, H, W) -> features (B, C', H, W), maps {"gate", "spatial"} (B, 1, H, W)."""
        maps = {}
        if x.shape[2:] != skip.shape[2:]:
            x = upsample(x, (skip.shape[2], skip.shape[3]))
        if self.gate is not None:
            skip, maps["gate"] = self.gate(x, skip)
        x = F.relu(self.bn1(self.conv1(torch.cat([x, skip], dim=1))))
        x = F.relu(self.bn2(self.conv2(x)))
        if self.spatial is not None:
            x, maps["spatial"] = self.spatial(x)
        return x, maps


class SGMSNet(nn.Module):
    """The network of a ModelConfig, from grey levels to logits and attention maps.

    In training mode a configuration with deep supervision also returns logits_3, logits_4 and logits_5.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths = dict(zip((2, 3, 4, 5), config.encoder_widths, strict=True))
        self.encoder = ResNetEncoder(config.encoder_layers, config.encoder_widths, fine=config.fine_stem)
        self.memory = nn.ModuleDict(
            {
                str(stage): MemoryModule(widths[stage], config.memory_slots, scale_query=config.scale_query)
                for stage in config.memory_stages
            }
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(widths[5], widths[5], 3, padding=1, bias=False), nn.BatchNorm2d(widths[5]), nn.ReLU()
        )
        outputs = dict(zip((2, 3, 4, 5), config.decoder_widths, strict=True))
        if config.stem_skip:
            widths[1] = config.encoder_widths[0]
            outputs[1] = max(config.decoder_widths[0] // 2, 8)
        self.decoder = nn.ModuleDict()
        inputs = widths[5]
        for level in config.levels:
            self.decoder[str(level)] = DecoderLevel(
                inputs, widths[level], outputs[level], gate=config.gates, spatial=config.spatial_attention
            )
            inputs = outputs[level]
        self.head = nn.Conv2d(inputs, len(config.classes), 1)
        heads = (3, 4, 5) if config.deep_supervision else ()
        self.side_heads = nn.ModuleDict(
            {str(level): nn.Conv2d(outputs[level], len(config.classes), 1) for level in heads}
        )
        self.apply(_initialise)
        if self.encoder.fine is not None:
            nn.init.zeros_(self.encoder.fine.conv3.weight)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 1, H, W), grey levels 0 to 255 (uint8 or float) -> outputs by name, as config.outputs orders them.

        logits (B, K, H, W); memory_5, gate_k, spatial_k (B, 1, h, w) at level k's stride; embedding (B, 512).
        """
        size = (images.shape[2], images.shape[3])
        maps: dict[str, Tensor] = {}
        x = self.encoder.stem(normalise(images))
        skips = {1: x}
        for stage in (2, 3, 4, 5):
            x = self.encoder.stage(stage, x)
            if str(stage) in self.memory:
                x, maps[f"memory_{stage}"] = self.memory[str(stage)](x)
            skips[stage] = x
        embedding = x.mean(dim=(2, 3))
        x = self.bottleneck(x)
        side_logits = {}
        for level in self.config.levels:
            x, level_maps = self.decoder[str(level)](x, skips[level])
            maps |= {f"{name}_{level}": value for name, value in level_maps.items()}
            if self.training and str(level) in self.side_heads:
                side_logits[f"logits_{level}"] = upsample(self.side_heads[str(level)](x), size)
        logits = upsample(self.head(x), size)
        return {"logits": logits, **maps, "embedding": embedding, **side_logits}


def _initialise(module: nn.Module) -> None:
    # He initialisation; batch norm as PyTorch leaves it. By the outputs, as torchvision's ResNet, but by the inputs
    # where there is a bias: these layers have few outputs, by which their sigmoids would begin at 0 or 1 (in the gates
    # batch norm follows, and the scale does not matter).
    if isinstance(module, nn.Conv2d):
        mode = "fan_out" if module.bias is None else "fan_in"
        nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def load_encoder(network: SGMSNet, state: dict[str, Tensor]) -> None:
    """Load torchvision resnet34 weights into the encoder; an RGB stem is summed to one channel, a fine stem stays.

    Raises ValueError when a tensor that the encoder needs is missing or has another shape.
    """
    own = {key: value for key, value in network.encoder.state_dict().items() if not key.startswith("fine.")}
    state = {key: value for key, value in state.items() if key in own}
    if "conv1.weight" in state and state["conv1.weight"].shape[1] == 3:
        state["conv1.weight"] = state["conv1.weight"].sum(dim=1, keepdim=True)
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"the encoder file lacks {len(missing)} tensors, the first is {missing[0]}")
    wrong = [key for key in state if state[key].shape != own[key].shape]
    if wrong:
        raise ValueError(f"the encoder file's {wrong[0]} has shape {tuple(state[wrong[0]].shape)}")
    network.encoder.load_state_dict(state, strict=False)
