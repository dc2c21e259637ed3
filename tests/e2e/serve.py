"""app.py with a verdict on familiarity that tests can foresee: a file named hand* is no chest X-ray, others are.

What the shipped weights say of an image is tested elsewhere; here it matters what the page makes of it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import sgmsnet
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Familiarity, Prediction

UNFAMILIAR, FAMILIAR = Familiarity(0.03, False), Familiarity(0.97, True)


def judging(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the verdict that its file's name asks for."""
    really = pipeline.predict

    def predict(*arguments: Any, **options: Any) -> Prediction:
        prediction = really(*arguments, **options)
        return replace(prediction, familiarity=UNFAMILIAR if prediction.image.startswith("hand") else FAMILIAR)

    pipeline.predict = predict  # type: ignore[method-assign]
    return pipeline


def main() -> int:
    """Serve like app.py, with the same options."""
    import app

    load = sgmsnet.load
    sgmsnet.load = lambda *arguments, **options: judging(load(*arguments, **options))
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
