"""Pseudo-labels: classes that an image has no mask of are learned from what a model answers on it."""

from __future__ import annotations

import numpy as np
import torch

from engines.processor import multiplies_bf16
from sgmsnet import checkpoint
from sgmsnet.training.dataset import SegmentationDataset

BATCH = 16


def pseudo_label(dataset: SegmentationDataset, model: str, *, weight: float, device: torch.device) -> None:
    """Fill in, in place, what a model answers where a class is neither outlined nor known to be absent.

    model: its name or weights file. Probabilities become masks, and count with the weight of 0 to 1 in the loss. Raises
    WeightsError where there is no such model.
    """
    files = checkpoint.find(model, check_graph=False)
    network = checkpoint.load_network(files).eval().to(device, memory_format=torch.channels_last)
    known = files.config.classes
    rows = {k: known.index(name) for k, name in enumerate(dataset.classes) if name in known}
    missing = dataset.labelled == 0  # (N, K)
    wanted = np.flatnonzero(missing[:, list(rows)].any(axis=1))
    half = device.type == "cpu" and multiplies_bf16()  # a GPU has it done soon in FP32, and not every one has BF16
    for start in range(0, len(wanted), BATCH):
        indices = wanted[start : start + BATCH]
        batch = torch.from_numpy(dataset.images[indices]).to(device).float()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = network(batch.contiguous(memory_format=torch.channels_last))["logits"]
        found = (logits.float().sigmoid() * 255).round().byte().cpu().numpy()
        for k, row in rows.items():
            these = missing[indices, k]
            dataset.masks[indices[these], k] = found[these, row]
            dataset.labelled[indices[these], k] = weight
