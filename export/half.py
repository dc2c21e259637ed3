"""The network with FP16 weights and convolutions, for one mixed-precision ONNX that TensorRT 8.6 to 11 can take.

FP32 stay: normalisation of the image, the memory's product and softmax, upsampling of the logits, and all outputs.
Batch norm is folded into the convolutions in FP32 first: in FP16 the values between a convolution and its batch norm
may overflow where those after it do not, and TensorRT for RTX crashes on batch-norm vectors that pass through a Cast.
Not here: writing the graph (to_onnx.py), and FP16 in the PyTorch engine, which is autocast.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export import ExportError
from sgmsnet.model import MemoryModule, ResNetEncoder

if TYPE_CHECKING:
    from sgmsnet.model import SGMSNet


class HalfNetwork(nn.Module):  # type: ignore[misc]
    """A copy of a network in eval mode with explicit casts; the network it is made of stays as it is."""

    def __init__(self, network: SGMSNet) -> None:
        """Raises ExportError for a weight that FP16 cannot hold."""
        super().__init__()
        self.config = network.config
        self.network = copy.deepcopy(network).eval()
        fold_batch_norm(self.network)
        memories = {id(value) for value in _memory_parameters(self.network)}
        for name, parameter in self.network.named_parameters():
            if id(parameter) not in memories:  # keys and values are FP32 factors of an FP32 product
                parameter.data = parameter.data.half()
            if not torch.isfinite(parameter).all():
                raise ExportError(f"FP16 cannot hold the weight {name} once its batch norm is folded into it")
        encoder = self.network.encoder
        encoder.conv1 = _HalfInput(encoder.conv1)
        if encoder.fine is not None:
            encoder.fine = _HalfInput(encoder.fine)
        self.network.head = _FloatOutput(self.network.head)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 1, H, W), grey levels 0 to 255 -> FP32 outputs by name, as SGMSNet.forward's."""
        return {name: value.float() for name, value in self.network(images).items()}


class _HalfInput(nn.Module):  # type: ignore[misc]
    """A module that takes FP32 and works in FP16."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.half())


class _FloatOutput(nn.Module):  # type: ignore[misc]
    """A module that works in FP16 and gives FP32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x).float()


def fold_batch_norm(module: nn.Module) -> None:
    """Multiply every batch norm in eval mode into the convolution before it, and leave an identity in its place.

    A batch norm follows the convolution that stands before it among the children of one module, which holds for
    every module of SGMSNet; that of a stem follows the sum with a fine one, which is scaled with it. Raises ExportError
    for one that follows none.
    """
    if isinstance(module, ResNetEncoder) and module.fine is not None:
        norm = module.bn1
        with torch.no_grad():
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            module.fine.conv3.weight.mul_(factor[:, None, None, None])
    before: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            before = (name, child)
        elif isinstance(child, nn.BatchNorm2d):
            if before is None or before[1].out_channels != child.num_features:
                raise ExportError(f"the batch norm {name} follows no convolution and cannot be folded")
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
            before = None
        else:
            fold_batch_norm(child)


def _memory_parameters(network: nn.Module) -> list[nn.Parameter]:
    memories = [module for module in network.modules() if isinstance(module, MemoryModule)]
    return [value for memory in memories for value in (memory.memory_keys, memory.memory_values)]
