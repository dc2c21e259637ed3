"""Takes images in and hands payloads out: opens pipelines once, keeps the examples, turns errors into sentences.

Knows nothing of Gradio, so that it can be made while Gradio is still being imported.
"""

from __future__ import annotations

import csv
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.base import EngineError, EngineUnavailable
from sgmsnet import imaging
from sgmsnet.imaging import Source as Image
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction
from sgmsnet.web import payload
from sgmsnet.web.failover import RUN_LIMIT_S, Failover, TimedEngine
from sgmsnet.web.metrics import Metrics

AT_ONCE = 2
"""Images that run at the same time, whoever asks: more on one machine would only slow each other down."""

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
    run: str = ""
    """Of the payload that shows it, so that an answer to one X-ray is never taken for that of another."""

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
        run_limit_s: float = RUN_LIMIT_S,
        at_once: int = AT_ONCE,
    ) -> None:
        self.first = first
        self._run_limit_s = run_limit_s
        self._failover = Failover()
        self.engines = list(probe())
        self.examples = {example.name: example for example in read_examples(examples)}
        self._open_pipeline = open_pipeline
        self._pipelines: dict[str, Pipeline] = {}
        self._opening = threading.Lock()
        self.at_once = at_once
        self._running = threading.BoundedSemaphore(at_once)
        self.metrics = Metrics()

    def warm(self) -> None:
        """Open the first engine and run it once. Raises what opening raises: without an engine there is no page."""
        try:
            self.pipeline(self.first).predict(np.zeros((256, 256), np.uint8), name="warm-up")
        except EngineError:
            self._failover.put_aside(self.first)
            raise
        self._failover.take_back(self.first)

    def predict(
        self, source: Image, *, name: str, engine: str, thresholds: Mapping[str, float] | None = None
    ) -> Prediction:
        """Run one image when its turn comes. Raises what Pipeline.predict raises, and EngineUnavailable.

        Where the engine was not chosen for this image, another one answers if the first fails.
        """
        asked: list[Pipeline] = []  # "auto" and what it stands for are one pipeline

        def ask(engine: str) -> Prediction:
            pipeline = self.pipeline(engine)
            if pipeline in asked:
                raise EngineUnavailable(f"The engine {engine} has failed already.")
            asked.append(pipeline)
            with self.turn():
                return pipeline.predict(source, name=name, thresholds=thresholds)

        if engine not in ("auto", self.first):
            return ask(engine)
        return self._failover.answer([engine, *(one.name for one in self.engines if one.available)], ask)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until fewer than `at_once` others run an engine, and hold a place among them."""
        with self._running:
            yield

    def segment(self, source: Source, *, engine: str) -> dict[str, Any]:
        """An image -> the viewer's payload, or a payload that carries one sentence instead."""
        with self.metrics.request("page"):
            try:
                path, attribution = self.find(source)
                prediction = self.predict(path, name=source.name, engine=engine)
                shown = payload.from_prediction(prediction, attribution=attribution)
            except (imaging.UnreadableImageError, EngineUnavailable) as error:
                self.metrics.error("page", "refused")
                return self.refuse(str(error))
            except EngineError as error:
                self.metrics.error("page", "failed")
                return self.refuse(str(error))
            except Exception:  # the outermost edge: the visitor gets a sentence, the log the rest
                log.exception("segmenting an image failed")
                self.metrics.error("page", "failed")
                return self.refuse(f"{source.name} could not be segmented; the server's log says why.")
            self.metrics.observe(shown["record"])
            return shown

    def again(self, source: Source, *, engine: str, thresholds: Mapping[str, float]) -> dict[str, Any]:
        """Exact masks and record of an image at other thresholds, for downloads, or one sentence instead."""
        try:
            path, _ = self.find(source)
            return payload.exact(self.predict(path, name=source.name, engine=engine, thresholds=thresholds))
        except (imaging.UnreadableImageError, EngineUnavailable, EngineError, ValueError) as error:
            return self.refuse(str(error))
        except Exception:  # the outermost edge, as above
            log.exception("measuring at other thresholds failed")
            return self.refuse(f"{source.name} could not be measured again; the server's log says why.")

    def find(self, source: Source) -> tuple[Path, str]:
        """The file of a source and whom it is from; raises UnreadableImageError where there is none any more."""
        path, attribution = source.path, ""
        if path is None:
            example = self.examples.get(source.name)
            if example is None:
                raise imaging.UnreadableImageError("There is no such example.")
            path, attribution = example.path, example.attribution
        if not path.is_file():
            raise imaging.UnreadableImageError(f"{source.name} is no longer on the server; please upload it again.")
        return path, attribution

    def refuse(self, sentence: str) -> dict[str, Any]:
        """The payload that shows a sentence where the result would be."""
        return payload.from_error(sentence)

    def pipeline(self, engine: str) -> Pipeline:
        """The one pipeline of an engine, opened when first asked for; raises EngineUnavailable."""
        if engine not in {"auto", self.first, *(found.name for found in self.engines)}:
            raise EngineUnavailable(f"There is no engine named {engine[:60]!r}.")
        opened = self._pipelines.get(engine)  # before the lock: what is open need not wait for what is being opened
        if opened is not None:
            return opened
        with self._opening:
            if engine not in self._pipelines:
                self._pipelines[engine] = self._open(engine)
            return self._pipelines[engine]

    def standing(self) -> list[Availability]:
        """The engines as they were probed, and those that were refused since, when another one was opened."""
        opened = dict(self._pipelines)
        refused = {one.name: one for pipeline in opened.values() for one in pipeline.skipped if one.refused}
        return [one if one.name in opened else refused.get(one.name, one) for one in self.engines]

    def notes(self, engine: str) -> tuple[str, ...]:
        """What a person should know of how an engine runs here; nothing of one that was not opened."""
        opened = self._pipelines.get(engine)
        return opened.info.notes if opened else ()

    def _open(self, engine: str) -> Pipeline:
        """What "auto" stands for and that engine by its own name are one pipeline."""
        opened = self._open_pipeline(engine)
        opened.engine = TimedEngine(opened.engine, limit_s=self._run_limit_s)
        kept = self._pipelines.setdefault(opened.info.backend, opened)
        if kept is not opened:
            opened.close()
        return kept


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
