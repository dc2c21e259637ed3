"""The graph that runtimes other than PyTorch open, once it is known to belong to the weights; opens nothing."""

from __future__ import annotations

from pathlib import Path

from engines.base import EngineUnavailable
from sgmsnet.checkpoint import ModelFiles, WeightsError, verify_graph


def usable_graph(model: ModelFiles) -> Path:
    """The ONNX file of a model; raises EngineUnavailable when there is none or it is of other weights."""
    try:
        return verify_graph(model)
    except WeightsError as error:
        raise EngineUnavailable(str(error)) from error
