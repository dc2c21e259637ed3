"""The protocol that every runtime fulfils, and its errors; numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class EngineUnavailable(RuntimeError):
    """This runtime cannot hold this model on this machine, for the reason given in one sentence."""


class EngineRefused(EngineUnavailable):
    """A plan, an artefact or a graph is here for this runtime, and must not be used for the reason given."""


class EngineError(RuntimeError):
    """A run failed, for the reason given in one sentence."""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime could hold a model here, with the reason in one sentence."""

    name: str
    available: bool
    reason: str
    version: str | None
    refused: bool = False
    """There was something to open, and it was tried or looked at and refused: worth telling, unlike what is absent."""


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an open engine is: shown on the page, in records and in reports."""

    backend: str
    """Name of engines.select.ENGINES."""
    precision: str
    """fp32, bf16, fp16 or int8; "fp32 or bf16" where a server's runtime decides."""
    device: str
    """For a person, for example "CPU" or "NVIDIA GeForce RTX 4060"."""
    height: int
    width: int
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    """Names of the arrays that `run` returns."""
    model: str
    model_sha256: str
    runtime_version: str
    load_ms: float
    notes: tuple[str, ...] = ()
    """What a person should know of how it runs here, a sentence each; most often nothing."""


class Engine(Protocol):
    """A runtime that holds one model and runs it; safe to call from several threads."""

    info: EngineInfo

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run uint8 images of shape (N, 1, H, W); return float32 arrays by output name.

        logits (N, K, H, W); gate_k, spatial_k (N, 1, h, w); memory_k (N, 1, h, w); embedding (N, C).
        A configuration without a module has no such output; info.outputs names what there is.

        Raises ValueError for images of another dtype or shape, EngineError when the runtime fails or is closed.
        """

    def close(self) -> None:
        """Free the runtime; a second call does nothing."""


@dataclass(frozen=True)
class Spent:
    """What a server has counted since it started: requests, and the time that they waited and were computed."""

    requests: int
    queue_ms: float
    compute_ms: float


class ServerEngine(Engine, Protocol):
    """An engine that runs elsewhere."""

    def spent(self) -> Spent | None:
        """The server's own counts; None where it gives none, as only Triton does, or cannot be reached."""


def check_images(images: np.ndarray, info: EngineInfo) -> None:
    """Raise ValueError unless images are uint8 of shape (N, 1, H, W) with N >= 1 and the model's H and W."""
    expected = (1, info.height, info.width)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, not {images.dtype}")
    if images.ndim != 4 or images.shape[0] < 1 or images.shape[1:] != expected:
        raise ValueError(f"images must have the shape (N, {', '.join(map(str, expected))}), not {images.shape}")
