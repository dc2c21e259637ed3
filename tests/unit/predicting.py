"""The predict command on an engine that needs no runtime, and the records that it writes. No assertions."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

import sgmsnet
from engines.base import Availability, EngineUnavailable
from sgmsnet.checkpoint import WeightsError
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Familiarity
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT
from tests.unit.evaluating import save

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text(encoding="utf-8"))
SKIPPED = (
    Availability("tensorrt", False, "the package tensorrt is not installed", None),
    Availability("openvino", False, "it is off", "1", refused=True),
    Availability("onnxruntime", False, "it is\tgone", "1", refused=True),
)


def load_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What `sgmsnet.load` opens from now on; the names of some models and precisions make it refuse, or tell more."""
    fake = FakeEngine(refuse=99)

    def load(model: str, *, engine: str = "auto", precision: str | None = None, flip: bool = False) -> Pipeline:
        if model == "none":
            raise WeightsError("none: there is no weights file none.safetensors")
        if precision == "int8":
            raise EngineUnavailable("onnxruntime: there is no int8 graph")
        dark = {"familiarity": lambda embedding, lungs: Familiarity(0.25, False)} if model == "unfamiliar" else {}
        skipped = SKIPPED if model == "third" else ()
        thresholds = {"lungs": 0.5, "infection": 0.5}
        return Pipeline(fake, thresholds=thresholds, temperature={}, flip=flip, skipped=skipped, **dark)

    monkeypatch.setattr(sgmsnet, "load", load)
    return fake


def save_chest(folder: Path) -> Path:
    """A drawn X-ray of the model's size in a file."""
    return save(folder / "in" / "chest.png", draw_xray(sick=((0.2, 0.4, 0.4, 0.6),)))


def records(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    result = [json.loads(line) for line in lines]
    for record in result:
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
    return result


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])
