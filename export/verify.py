"""Does a runtime give PyTorch's answer? Differences of logits, masks, Dice and attention on images, as numbers.

Where torch is absent, as on a Jetson, ONNX Runtime in FP32 stands in for it.

Not here: the comparison of arrays (differences.py), which images (cases.py), and latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engines.base import Engine
from engines.select import open_unverified
from export.cases import Case
from export.differences import Difference, differences, not_finite
from sgmsnet.checkpoint import ModelFiles

_BATCH = 8


@dataclass(frozen=True)
class Bound:
    """What a precision may differ from PyTorch FP32 by (docs/architecture.md, Contracts)."""

    mask_iou_mean: float
    dice_change_points: float
    logit_difference: float | None = None


BOUNDS = {
    "fp32": Bound(0.999, 0.1, 1e-3),
    "fp16": Bound(0.995, 0.1),
    "bf16": Bound(0.995, 0.1),
    "fp32 or bf16": Bound(0.995, 0.1),
    "int8": Bound(0.99, 0.3),
}
IMAGES_AT_LEAST = 100
"""The bounds are for means over so many images: fewer may fail, but do not pass."""


@dataclass(frozen=True, kw_only=True)
class DiceChange:
    """Mean over images of one class's Dice against ground truth, 0 to 100 points, at the images' own size."""

    images: int
    before: float
    """Of the reference."""
    after: float
    """Of the engine."""


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
    """"pytorch", "reference" for the stored outputs of PyTorch, or "onnxruntime" in FP32 where torch is absent."""
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

    outputs: Mapping[str, Difference] = field(default_factory=dict)
    dice: Mapping[str, DiceChange] = field(default_factory=dict)
    """By class; empty without ground truth."""

    @property
    def refused(self) -> tuple[str, ...]:
        """Why this is out of its precision's bound, a clause each; empty when it is within."""
        bound, reasons = BOUNDS[self.precision], []
        if self.not_finite:
            reasons.append(f"{self.not_finite} values are not finite")
        if bound.logit_difference is not None and not self.logit_difference_max < bound.logit_difference:
            reasons.append(f"logits differ by {self.logit_difference_max:.2g}, {bound.logit_difference:g} are allowed")
        if not self.mask_iou_mean >= bound.mask_iou_mean:
            reasons.append(f"the mean mask IoU is {self.mask_iou_mean:.4f}, {bound.mask_iou_mean} is required")
        for name, dice in self.dice.items():
            if not abs(dice.after - dice.before) <= bound.dice_change_points:
                reasons.append(
                    f"Dice of {name} goes from {dice.before:.2f} to {dice.after:.2f} points, a change of "
                    f"{bound.dice_change_points:g} is allowed"
                )
        return tuple(reasons)

    @property
    def passed(self) -> bool:
        """Whether this is within the bound of the precision, over however many images; what is not finite fails."""
        return not self.refused

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the verdict in words, as `passed` (None: it cannot be judged), and why under `refused`."""
        refused, lacks = list(self.refused), too_little(self)
        verdict = "failed" if refused else "; ".join(lacks) or "passed"
        passed = False if refused else None if lacks else True
        return {**asdict(self), "passed": passed, "verdict": verdict, "refused": refused}


def too_little(parity: Parity) -> tuple[str, ...]:
    """What a verification lacks for a verdict, a clause each; in INT8 that takes true masks as well."""
    lacks = []
    if parity.images < IMAGES_AT_LEAST:
        lacks.append(f"too few images to judge: {parity.images}, and {IMAGES_AT_LEAST} are required")
    if parity.precision == "int8" and not parity.dice:
        lacks.append("no image had a true mask beside it, so that the change of Dice is unknown")
    return tuple(lacks)


def verify(files: ModelFiles, engine: Engine, images: np.ndarray, *, cases: Sequence[Case] = ()) -> Parity:
    """Compare an engine with PyTorch FP32 on uint8 images (N, 1, H, W); cases give the truths of the same images.

    Without torch ONNX Runtime in FP32 takes its place; raises IsTheStandard for that very engine.
    """
    try:
        from export.to_onnx import run_pytorch
    except (ImportError, OSError):  # OSError: a library that torch needs is missing
        return _verify_without_torch(files, engine, images, cases)
    from sgmsnet.checkpoint import load_network

    expected = run_pytorch(load_network(files), images)
    return compare(files, engine, images, expected, against="pytorch", cases=cases)


class IsTheStandard(ValueError):
    """The engine is the one that others are compared with here."""


def _verify_without_torch(files: ModelFiles, engine: Engine, images: np.ndarray, cases: Sequence[Case]) -> Parity:
    if (engine.info.backend, engine.info.precision) == ("onnxruntime", "fp32"):
        raise IsTheStandard(
            "onnxruntime in fp32 is what others are compared with where torch is absent: leave --images out"
        )
    standard = open_unverified("onnxruntime", files, precision="fp32")
    try:
        parts = [standard.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    finally:
        standard.close()
    expected = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return compare(files, engine, images, expected, against="onnxruntime", cases=cases)


def verify_cases(files: ModelFiles, engine: Engine, cases: Sequence[Case]) -> Parity:
    """Compare an engine with PyTorch FP32 on X-rays, and both with the truth where it is known."""
    return verify(files, engine, np.stack([case.planes for case in cases]), cases=cases)


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
    files: ModelFiles,
    engine: Engine,
    images: np.ndarray,
    expected: dict[str, np.ndarray],
    *,
    against: str,
    cases: Sequence[Case] = (),
) -> Parity:
    """Run the engine on uint8 images (N, 1, H, W) and compare it with the expected outputs by name."""
    starts = range(0, len(images), _BATCH)
    parts = [engine.run(images[start : start + _BATCH]) for start in starts]
    wanted = [{name: value[start : start + _BATCH] for name, value in expected.items()} for start in starts]
    outputs = differences(parts, wanted)
    found = np.concatenate([part["logits"] for part in parts])
    borders = _borders(files)
    masks, true_masks = found >= borders, expected["logits"] >= borders
    iou = _iou(masks, true_masks)
    attention = [outputs[name].max for name in outputs if name in files.config.attention]
    return Parity(
        engine=engine.info.backend,
        precision=engine.info.precision,
        device=engine.info.device,
        runtime_version=engine.info.runtime_version,
        model=files.name,
        model_sha256=files.sha256,
        against=against,
        images=len(images),
        logit_difference_max=outputs["logits"].max,
        attention_difference_max=max(attention, default=0.0),
        embedding_difference_max=outputs["embedding"].max if "embedding" in outputs else 0.0,
        mask_iou_mean=float(iou.mean()),
        mask_iou_5th_percentile=float(np.percentile(iou, 5)),
        mask_iou_min=float(iou.min()),
        pixels_changed=float((masks != true_masks).mean()),
        not_finite=not_finite(parts),
        outputs=outputs,
        dice=_dice_changes(files, cases, before=expected["logits"], after=found),
    )


def _dice_changes(
    files: ModelFiles, cases: Sequence[Case], *, before: np.ndarray, after: np.ndarray
) -> dict[str, DiceChange]:
    """Logits (N, K, H, W) of N cases, twice, against their truths."""
    changes = {}
    for place, (name, border) in enumerate(zip(files.config.classes, _borders(files).ravel(), strict=True)):
        pairs = []
        for index, case in enumerate(cases):
            if name in case.truths:
                planes = (before[index, place], after[index, place])
                pairs.append([_dice(case.geometry.restore(plane) >= border, case.truths[name]) for plane in planes])
        if pairs:
            means = 100 * np.mean(pairs, axis=0)
            changes[name] = DiceChange(images=len(pairs), before=float(means[0]), after=float(means[1]))
    return changes


def _borders(files: ModelFiles) -> np.ndarray:
    """(1, K, 1, 1): the logit from which a pixel belongs to a class."""
    logits = [_logit(files.thresholds[name]) * files.temperature[name] for name in files.config.classes]
    return np.array(logits).reshape(1, -1, 1, 1)


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """(H, W) boolean twice; two empty masks agree fully."""
    return float((2 * (mask & truth).sum() + 1e-5) / (mask.sum() + truth.sum() + 1e-5))


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, K, H, W) boolean twice -> (N, K)."""
    union = (first | second).sum(axis=(2, 3))
    both = (first & second).sum(axis=(2, 3))
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
