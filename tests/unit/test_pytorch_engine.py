"""What the PyTorch engine says of a GPU that it does not use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines import cuda
from engines.cuda import Gpu
from engines.pytorch_engine import PyTorchEngine
from sgmsnet.checkpoint import find


@pytest.mark.parametrize(("built_for", "notes"), [(None, 0), ("13.0", 1)])
def test_a_gpu_whose_driver_is_too_old_for_this_torch_is_told(
    built_for: str | None, notes: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    engine = PyTorchEngine(find(tiny_model))
    engine.close()
    assert engine.info.device == "CPU"
    assert len(engine.info.notes) == notes
    for note in engine.info.notes:
        assert "built for CUDA 13.0, cannot use RTX's driver" in note
