"""Takes images in and hands payloads out: opens pipelines once, keeps the examples, turns errors into sentences.

Knows nothing of Gradio, so that it can be made while Gradio is still being imported.
"""

from __future__ import annotations

import csv
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.base import EngineError, EngineUnavailable
from sgmsnet import imaging
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import payload

log = logging.getLogger(__name__)


class Availability(Protocol):
    """What engines.select.probe says of one engine."""

    @property
    def name(self) -> str: ...
    @property
    def available(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def version(self) -> str | None: ...


@dataclass(frozen=True)
class Example:
    """An X-ray that visitors may try; `thumbnail` is a data-URI."""

    name: str
    path: Path
    caption: str
    attribution: str
    thumbnail: str


@dataclass(frozen=True)
class Source:
    """Where an image comes from: a file that was uploaded, or one of the examples by its file name."""

    name: str
    path: Path | None

    @classmethod
    def upload(cls, path: str) -> Source:
        """A stored upload; its name is the visitor's."""
        return cls(Path(path).name, Path(path))

    @classmethod
    def example(cls, name: str) -> Source:
        """An example; the name comes from the browser and is looked up, never opened."""
        return cls(name, None)


class Desk:
    """One model, its pipelines by engine name, and the examples. Safe to use from several threads."""

    def __init__(
        self,
        open_pipeline: Callable[[str], Pipeline],
        *,
        probe: Callable[[], Sequence[Availability]],
        first: str,
        examples: Path,
    ) -> None:
        self.first = first
        self.engines = list(probe())
        self.examples = {example.name: example for example in read_examples(examples)}
        self._open_pipeline = open_pipeline
        self._pipelines: dict[str, Pipeline] = {}
        self._opening = threading.Lock()

    def warm(self) -> None:
        """Open the first engine and run it once. Raises what opening raises: without an engine there is no page."""
        self._pipeline(self.first).predict(np.zeros((256, 256), np.uint8), name="warm-up")

    def segment(self, source: Source, *, engine: str) -> dict[str, Any]:
        """An image -> the viewer's payload, or a payload that carries one sentence instead."""
        path, attribution = source.path, ""
        if path is None:
            example = self.examples.get(source.name)
            if example is None:
                return self.refuse("There is no such example.")
            path, attribution = example.path, example.attribution
        if not path.is_file():
            return self.refuse(f"{source.name} is no longer on the server; please upload it again.")
        try:
            prediction = self._pipeline(engine).predict(path, name=source.name)
            return payload.from_prediction(prediction, attribution=attribution)
        except (imaging.UnreadableImageError, EngineUnavailable, EngineError) as error:
            return self.refuse(str(error))
        except Exception:  # the outermost edge: the visitor gets a sentence, the log the rest
            log.exception("segmenting an image failed")
            return self.refuse(f"{source.name} could not be segmented; the server's log says why.")

    def refuse(self, sentence: str) -> dict[str, Any]:
        """The payload that shows a sentence where the result would be."""
        return payload.from_error(sentence)

    def _pipeline(self, engine: str) -> Pipeline:
        known = {"auto", self.first, *(found.name for found in self.engines)}
        if engine not in known:
            raise EngineUnavailable(f"There is no engine named {engine}.")
        with self._opening:
            if engine not in self._pipelines:
                self._pipelines[engine] = self._open_pipeline(engine)
            return self._pipelines[engine]


def read_examples(folder: Path) -> list[Example]:
    """The rows of FOLDER/examples.csv whose files are there; none when there is no such list."""
    listing = folder / "examples.csv"
    if not listing.is_file():
        return []
    with listing.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if (folder / row["file"]).is_file()]
    return [_example(folder, row) for row in rows]


def _example(folder: Path, row: dict[str, str]) -> Example:
    path = folder / row["file"]
    person = row.get("person", "").split(",")[0]
    finding = row.get("finding", "") or path.stem
    return Example(
        name=path.name,
        path=path,
        caption=f"{finding[:1].upper()}{finding[1:]}" + (f", {person}" if person else ""),
        attribution=". ".join(part for part in (row.get("attribution", ""), row.get("licence", "")) if part),
        thumbnail=payload.thumbnail(imaging.load(path)),
    )
