"""TensorRT's builder as versions 8.6, 10 and 11 offer it, in so far as it is used; it records every call in order."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engines.manifest import Manifest

SHARED_PLAN = b"plan, whose profile contexts may share"


def a_manifest() -> Manifest:
    """A manifest that is right in itself; its artefact model.plan is not there."""
    return Manifest(
        model="tiny",
        weights_sha256="a" * 64,
        artefact="model.plan",
        artefact_sha256="b" * 64,
        opset=20,
        inputs={"images": (-1, 1, 64, 64)},
        outputs={"logits": (-1, 2, 64, 64), "embedding": (-1, 32)},
        batch_max=16,
        classes=("lungs", "infection"),
        thresholds={"lungs": 0.5, "infection": 0.4},
        precision="fp16",
        runtime="tensorrt-rtx",
        runtime_version="1.7",
        gpu_name=None,
        compute_capability=("8.6", "8.9"),
        parity=None,
        git_revision=None,
        made_at="2026-01-01T00:00:00+00:00",
    )


def fake_builder(
    version: str, *, readable: bool = True, buildable: bool = True, has_half: bool = True, has_cache: bool = True
) -> tuple[Any, list[str]]:
    """The module tensorrt of a version ("8.6", "10.3", "11.0"), and the list that its calls are written into.

    has_half: the graph has a layer that gives FP16; has_cache: timing caches can be made.
    """
    calls: list[str] = []
    major = int(version.split(".")[0])
    layers = [
        _Layer("CONVOLUTION", "half" if has_half else "float"),
        _Layer("SOFTMAX", "float"),
        _Layer("CONSTANT", "float"),
    ]

    class Network:
        num_layers, num_inputs = len(layers), 1

        def get_layer(self, index: int) -> _Layer:
            return layers[index]

        def get_input(self, index: int) -> Any:
            return SimpleNamespace(name="images", shape=(-1, 1, 64, 64))

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            calls.append("OnnxParser")

        def parse_from_file(self, path: str) -> bool:
            calls.append(f"parse {Path(path).name}")
            return readable

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "no importer\n for Det")

    class Cache:
        def serialize(self) -> bytes:
            return b"tactics"

    class Config:
        progress_monitor: Any = None
        shares_profile = major >= 10

        def set_preview_feature(self, feature: str, enable: bool) -> None:
            calls.append(f"preview {feature} {enable}")
            self.shares_profile = enable

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            calls.append(f"{pool} {size}")

        def clear_flag(self, flag: IntEnum) -> None:
            calls.append(f"clear {flag.name}")

        def set_flag(self, flag: IntEnum) -> None:
            calls.append(f"set {flag.name}")

        def add_optimization_profile(self, profile: Any) -> int:
            calls.append(f"profile {profile.shapes}")
            return 0

        def create_timing_cache(self, content: bytes) -> Cache | None:
            calls.append(f"timing cache {content!r}")
            return Cache() if has_cache and content != b"damaged" else None

        def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
            calls.append(f"use timing cache, mismatch {ignore_mismatch}")
            return True

        def get_timing_cache(self) -> Cache | None:
            return Cache() if has_cache else None

    class Builder:
        def __init__(self, logger: Any) -> None:
            calls.append("Builder")

        def create_network(self, flags: int) -> Network:
            calls.append(f"network {flags}")
            return Network()

        def create_builder_config(self) -> Config:
            calls.append("config")
            return Config()

        def create_optimization_profile(self) -> Any:
            profile = SimpleNamespace(shapes=None)
            profile.set_shape = lambda name, *shapes: setattr(profile, "shapes", (name, *shapes))
            return profile

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            calls.append("build")
            if monitor := config.progress_monitor:
                monitor.phase_start("Building", None, 2)
                monitor.phase_start("inner", "Building", 9)
                monitor.step_complete("inner", 0)
                monitor.step_complete("Building", 0)
                monitor.phase_finish("Building")
            if not buildable:
                return None
            return SHARED_PLAN if config.shares_profile else b"plan"

    creation = {8: {"EXPLICIT_BATCH": 0}, 10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 11: {"OTHER": 0}}
    flags = {"TF32": 0} if major == 11 else {"TF32": 0, "FP16": 1, "OBEY_PRECISION_CONSTRAINTS": 2}
    module = SimpleNamespace(
        __version__=version,
        Logger=_Logger,
        Builder=Builder,
        OnnxParser=Parser,
        NetworkDefinitionCreationFlag=IntEnum("NetworkDefinitionCreationFlag", creation[major]),
        BuilderFlag=IntEnum("BuilderFlag", flags),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        LayerType=SimpleNamespace(CONSTANT="CONSTANT", SHAPE="SHAPE", CAST="CAST"),
        float32="float",
        float16="half",
        layers=layers,
    )
    if major < 11:
        module.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="PROFILE_SHARING_0806")
    if major >= 10:
        module.IProgressMonitor = type("IProgressMonitor", (), {})
    return module, calls


class _Logger:
    WARNING = ERROR = 1

    def __init__(self, level: int) -> None:
        self.level = level


class _Layer:
    def __init__(self, kind: str, dtype: str) -> None:
        self.type = kind
        self.precision: str | None = None
        self._dtype = dtype

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(dtype=self._dtype)
