"""What a network is made of, as frozen dataclasses checked on construction; no torch, no files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

_RESULTS = re.compile(r"overlay|embedding|logits|(memory|gate|spatial)_\d")
STRIDES = {1: 2, 2: 4, 3: 8, 4: 16, 5: 32}
"""Stride of each decoder level's output relative to the network's input."""


class ConfigError(ValueError):
    """A configuration that cannot be built, told in one sentence."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the shape of an SGMSNet.

    The defaults are the paper's configuration (IEEE CME 2025, doi 10.1109/CME67420.2025.11239364).
    """

    classes: tuple[str, ...] = ("infection",)
    """Names of the output channels, in order; each is an independent sigmoid."""
    height: int = 224
    """Input height in pixels, a multiple of 32."""
    width: int = 224
    """Input width in pixels, a multiple of 32."""
    encoder_layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Basic blocks in each of the four stages; (3, 4, 6, 3) is ResNet-34."""
    encoder_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Channels of the four stages, at strides 4, 8, 16 and 32."""
    decoder_widths: tuple[int, int, int, int] = (64, 64, 128, 256)
    """Channels that decoder levels 2, 3, 4 and 5 yield."""
    memory_slots: int = 64
    """Key and value pairs in each memory."""
    memory_stages: tuple[int, ...] = (5,)
    """Encoder stages (2 to 5) whose features pass through a memory; empty: no memory."""
    scale_query: bool = False
    """Divide the query by the square root of its channels before the product with the keys."""
    gates: bool = True
    """Gated attention on every skip connection."""
    spatial_attention: bool = True
    """Spatial attention after every decoder level."""
    fine_stem: bool = False
    """Narrow convolutions at full resolution, whose features join the stem's: texture that stride 2 does not see."""
    stem_skip: bool = False
    """A fifth decoder level at stride 2, on the output of the stem, for sharper borders."""
    deep_supervision: bool = False
    """Logits from levels 3 to 5 as well, in training only."""

    def __post_init__(self) -> None:
        for field in fields(self):  # YAML and JSON give lists where a dataclass wants tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if isinstance(self.classes, str):
            raise ConfigError(f"classes is a list of names, as [{self.classes}]")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes must be one or more different names, not {list(self.classes)}")
        if any(not isinstance(name, str) or not name.isidentifier() for name in self.classes):
            raise ConfigError(f"class names must be plain words, not {list(self.classes)}")
        if taken := [name for name in self.classes if _RESULTS.fullmatch(name)]:
            raise ConfigError(f"{taken[0]} is the name of another result, and cannot be that of a class")
        for side in ("height", "width"):
            value = getattr(self, side)
            if value < 32 or value % 32:
                raise ConfigError(f"{side} must be a multiple of 32, not {value}")
        for name in ("encoder_layers", "encoder_widths", "decoder_widths"):
            values = getattr(self, name)
            if len(values) != 4 or min(values) < 1:
                raise ConfigError(f"{name} must be four positive numbers, not {list(values)}")
        if min(self.decoder_widths) < 8:
            raise ConfigError("decoder_widths must be 8 or more: spatial attention works on an eighth of them")
        if self.memory_slots < 2:
            raise ConfigError(f"memory_slots must be 2 or more, not {self.memory_slots}")
        if not set(self.memory_stages) <= {2, 3, 4, 5}:
            raise ConfigError(f"memory_stages are among 2, 3, 4 and 5, not {list(self.memory_stages)}")

    @property
    def levels(self) -> tuple[int, ...]:
        """Decoder levels from coarse to fine, (5, 4, 3, 2) or (5, 4, 3, 2, 1)."""
        return (5, 4, 3, 2, 1) if self.stem_skip else (5, 4, 3, 2)

    @property
    def attention(self) -> tuple[str, ...]:
        """Names of the attention maps that this network yields, in the order of its outputs."""
        names = [f"memory_{stage}" for stage in sorted(self.memory_stages)]
        for level in self.levels:
            names += [f"gate_{level}"] * self.gates + [f"spatial_{level}"] * self.spatial_attention
        return tuple(names)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs of the exported graph."""
        return ("logits", *self.attention, "embedding")

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output without the batch; level k of the decoder has stride 2^k."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.outputs:
            if name == "logits":
                shapes[name] = (len(self.classes), self.height, self.width)
            elif name == "embedding":
                shapes[name] = (self.encoder_widths[-1],)
            else:
                stride = 2 ** int(name.rpartition("_")[2])
                shapes[name] = (1, self.height // stride, self.width // stride)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from a dictionary; `base` names a configuration of NAMED whose fields are the defaults.

        Raises ConfigError on an unknown field or a value that cannot be built.
        """
        values = dict(values)
        base = values.pop("base", "paper")
        if base not in NAMED:
            raise ConfigError(f"no configuration is called {base!r}; there are {', '.join(NAMED)}")
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"unknown model option {', '.join(sorted(unknown))}")
        return replace(NAMED[base], **values)


NAMED: dict[str, ModelConfig] = {
    "paper": ModelConfig(),
    "cxr": ModelConfig(classes=("lungs", "infection"), scale_query=True, fine_stem=True),
    "plain": ModelConfig(memory_stages=(), gates=False, spatial_attention=False),
}
"""Configurations by name: the paper's, the shipped model's, and a ResNet-34 U-Net without the three modules."""
