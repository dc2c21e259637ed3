"""Folders of X-rays to work through as an archive, and the records that a job leaves. No assertions."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

import sgmsnet
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, draw_xray, info_with
from tests.needs import ROOT

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text(encoding="utf-8"))


def load_small_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What `sgmsnet.load` opens from now on: an engine of 32x32."""
    fake = FakeEngine(info_with(height=32, width=32))
    monkeypatch.setattr(sgmsnet, "load", lambda *_, **__: Pipeline(fake, thresholds={}, temperature={}))
    return fake


def archive(folder: Path, count: int) -> set[str]:
    """X-rays in folders of a hundred, one of them no image; their names."""
    names = set()
    folder.mkdir(parents=True)
    Image.fromarray(draw_xray(40, 40)).save(folder.parent / "one.png")
    pixels = (folder.parent / "one.png").read_bytes()
    for number in range(count):
        path = folder / f"{number // 100}" / f"x{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pixels if number != 7 else b"no image")
        names.add(path.relative_to(folder).as_posix())
    return names


def predict(*arguments: object) -> int:
    return main(["predict", "--write", "masks", *map(str, arguments)])


def records(out: Path) -> list[dict[str, object]]:
    """Of all done-lists of a folder, in the schema."""
    found = []
    for path in sorted(out.glob("predictions*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found.append(json.loads(line))
            jsonschema.Draft202012Validator(SCHEMA).validate(found[-1])
    return found
