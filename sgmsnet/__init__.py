"""SGMSNet: chest X-ray segmentation. `load` gives a pipeline; importing the package loads no runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sgmsnet.pipeline import Pipeline

__all__ = ["__version__", "load"]
__version__ = "0.4.0"


def load(
    model: str | Path = "cxr", *, engine: str = "auto", precision: str | None = None, flip: bool = False
) -> Pipeline:
    """Open a model, by name or by the path of its weights, in a runtime, and return the pipeline around it.

    flip runs the mirror image too and takes the mean of both, for twice the time.

    Raises WeightsError for an unusable weights file, and EngineUnavailable with every reason when no runtime opens.
    """
    from engines.select import choose
    from sgmsnet.checkpoint import find
    from sgmsnet.pipeline import Pipeline

    files = find(model)
    choice = choose(engine, files, precision=precision)
    return Pipeline(
        choice.engine,
        thresholds=files.thresholds,
        temperature=files.temperature,
        familiarity=files.familiarity,
        share_cuts=files.share_cuts,
        flip=flip,
        skipped=choice.skipped,
    )
