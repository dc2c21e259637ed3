"""Does a runtime give PyTorch's answer? Differences of logits, masks and attention on images, as numbers.

Not here: Dice against ground truth, which belongs to training.evaluate, and latency.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engines.base import Engine
from sgmsnet.checkpoint import ModelFiles

_BATCH = 8


@dataclass(frozen=True)
class Bound:
    """What a precision may differ from PyTorch FP32 by (DESIGN, parity bounds)."""

    mask_iou_mean: float
    logit_difference: float | None = None


BOUNDS = {
    "fp32": Bound(0.999, 1e-3),
    "fp16": Bound(0.995),
    "bf16": Bound(0.995),
    "int8": Bound(0.99),
}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an engine is from PyTorch FP32 over some images."""

    engine: str
    precision: str
    device: str
    runtime_version: str
    model: str
    model_sha256: str
    against: str
    """"pytorch", or "reference" for the stored outputs of PyTorch."""
    images: int
    logit_difference_max: float
    attention_difference_max: float
    embedding_difference_max: float
    mask_iou_mean: float
    """Over images and classes, at the model's thresholds; two empty masks agree fully."""
    mask_iou_5th_percentile: float
    mask_iou_min: float
    pixels_changed: float
    """Share of pixels whose class changes, 0 to 1."""
    not_finite: int
    """Values that are infinite or NaN, over all outputs."""

    @property
    def passed(self) -> bool:
        """Whether this is within the bound of the precision; any value that is not finite fails."""
        bound = BOUNDS[self.precision]
        close = bound.logit_difference is None or self.logit_difference_max < bound.logit_difference
        return self.not_finite == 0 and close and self.mask_iou_mean >= bound.mask_iou_mean

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with `passed`."""
        return {**asdict(self), "passed": self.passed}


def verify(files: ModelFiles, engine: Engine, images: np.ndarray) -> Parity:
    """Compare an engine with PyTorch FP32 on uint8 images (N, 1, H, W)."""
    from export.to_onnx import run_pytorch
    from sgmsnet.checkpoint import load_network

    expected = run_pytorch(load_network(files), images)
    return compare(files, engine, images, expected, against="pytorch")


def verify_reference(files: ModelFiles, engine: Engine) -> Parity:
    """Compare an engine with the outputs stored beside the weights; needs no torch.

    Raises ValueError when there are none, or when they come from other weights.
    """
    if files.reference is None:
        raise ValueError(f"{files.name} has no stored reference beside its weights")
    with np.load(files.reference, allow_pickle=False) as stored:
        expected = {name: stored[name] for name in stored.files}
    if str(expected.pop("weights_sha256")) != files.sha256:
        raise ValueError(f"{files.reference.name} was made from other weights than {files.weights.name}")
    return compare(files, engine, expected.pop("images"), expected, against="reference")


def compare(
    files: ModelFiles, engine: Engine, images: np.ndarray, expected: dict[str, np.ndarray], *, against: str
) -> Parity:
    """Run the engine on uint8 images (N, 1, H, W) and compare it with the expected outputs by name."""
    parts = [engine.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in engine.info.outputs}
    logits = np.array([_logit(files.thresholds[name]) * files.temperature[name] for name in files.config.classes])
    borders = logits.reshape(1, -1, 1, 1)
    masks, true_masks = found["logits"] >= borders, expected["logits"] >= borders
    iou = _iou(masks, true_masks)
    attention = [name for name in engine.info.outputs if name in files.config.attention]
    return Parity(
        engine=engine.info.backend,
        precision=engine.info.precision,
        device=engine.info.device,
        runtime_version=engine.info.runtime_version,
        model=files.name,
        model_sha256=files.sha256,
        against=against,
        images=len(images),
        logit_difference_max=_difference(found, expected, ["logits"]),
        attention_difference_max=_difference(found, expected, attention),
        embedding_difference_max=_difference(found, expected, ["embedding"]),
        mask_iou_mean=float(iou.mean()),
        mask_iou_5th_percentile=float(np.percentile(iou, 5)),
        mask_iou_min=float(iou.min()),
        pixels_changed=float((masks != true_masks).mean()),
        not_finite=sum(int((~np.isfinite(value)).sum()) for value in found.values()),
    )


def _difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], names: list[str]) -> float:
    """The largest absolute difference; FP32's largest number for NaN and infinity, which JSON cannot hold."""
    largest = max((float(np.abs(found[name] - expected[name]).max()) for name in names), default=0.0)
    return largest if np.isfinite(largest) else float(np.finfo(np.float32).max)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, K, H, W) boolean twice -> (N, K)."""
    union = (first | second).sum(axis=(2, 3))
    both = (first & second).sum(axis=(2, 3))
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
