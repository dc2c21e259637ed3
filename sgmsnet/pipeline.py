"""The way of an X-ray from file or bytes to Prediction, with any Engine. Writes no files, draws nothing."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from engines.base import Availability, Engine, EngineError, EngineInfo
from sgmsnet import imaging
from sgmsnet.imaging import Geometry, Radiograph, Source, UnreadableImageError
from sgmsnet.interval import ShareCuts
from sgmsnet.measurements import LUNGS
from sgmsnet.prediction import Failure, Familiarity, Prediction, check_thresholds

Judge = Callable[[np.ndarray, "np.ndarray | None"], Familiarity]
"""Embedding float32 (C,), and lung logits float32 (h, w) without the padding or None -> how familiar the image is."""

_ATTENTION = ("gate_", "spatial_", "memory_")
_UNFLIPPED = "logits of the image alone"
"""Kept beside the engine's outputs where the mirror image was run too."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image that is ready to run: planes uint8 (1, h, w), and what is needed to find the way back."""

    image: str
    radiograph: Radiograph
    planes: np.ndarray
    geometry: Geometry
    timings_ms: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Raw:
    """What the engine gave for a batch: float32 (N, ...) by output name, and milliseconds an image."""

    outputs: dict[str, np.ndarray]
    run_ms: float


_Batch = tuple[Sequence["_Prepared | Failure"], "Future[_Raw]"]


class Pipeline:
    """One engine and the model's thresholds; safe to call from several threads if the engine is.

    familiarity judges an image against the training images, share_cuts gives the infected share an interval;
    without them the predictions say neither. flip runs the mirror image too and takes the mean of both logits;
    attention and familiarity stay those of the image. Classes without a threshold get 0.5, without a temperature 1.
    skipped is what was passed over when the engine was chosen.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        thresholds: Mapping[str, float],
        temperature: Mapping[str, float],
        familiarity: Judge | None = None,
        share_cuts: ShareCuts | None = None,
        flip: bool = False,
        skipped: Sequence[Availability] = (),
    ) -> None:
        """Raise ValueError for a threshold outside (0, 1) or of an unknown class."""
        classes = engine.info.classes
        check_thresholds(thresholds, classes)
        self.engine = engine
        self.skipped = tuple(skipped)
        self.thresholds = {name: float(thresholds.get(name, 0.5)) for name in classes}
        self.temperature = {name: float(temperature.get(name, 1.0)) for name in classes}
        self._familiarity = familiarity
        self._share_cuts = share_cuts
        self._flip = flip

    @property
    def info(self) -> EngineInfo:
        """The engine's facts."""
        return self.engine.info

    def predict(
        self, source: Source, *, name: str | None = None, thresholds: Mapping[str, float] | None = None
    ) -> Prediction:
        """Predict one file, bytes or grey array.

        Raises UnreadableImageError, EngineError, and ValueError for a bad threshold.
        """
        chosen = self._chosen(thresholds)
        item = self._prepare(source, _name_of(source, name=name))
        return next(self._finished([item], self._run([item]), chosen))

    def predict_many(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 8,
        workers: int = 2,
        thresholds: Mapping[str, float] | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Predict many images in order; the engine runs a batch while others are decoded and the last is measured.

        A batch is what is decoded by then, at most batch_size. No more than batch_size + workers images are
        held beside the two batches in hand, however many sources there are. An image that cannot be read or run
        becomes a Failure. Raises ValueError for bad options, at once.
        """
        if batch_size < 1 or workers < 1:
            raise ValueError("The batch size and the number of workers must be at least 1.")
        return self._predict_many(iter(sources), batch_size, workers, self._chosen(thresholds))

    def check(self) -> None:
        """Run a black image; raises EngineError unless the engine answers, with values that are finite."""
        outputs = self._outputs(np.zeros((1, 1, self.info.height, self.info.width), np.uint8))
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise EngineError(f"the engine {self.info.backend} gives values that are not finite")

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _predict_many(
        self, sources: Iterator[Source], batch_size: int, workers: int, thresholds: dict[str, float]
    ) -> Iterator[Prediction | Failure]:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        runner = ThreadPoolExecutor(1, thread_name_prefix="run")
        running: _Batch | None = None
        window: deque[Future[_Prepared | Failure]] = deque()
        numbered = enumerate(sources, start=1)

        def refill() -> None:
            for number, source in islice(numbered, batch_size + workers - len(window)):
                window.append(pool.submit(self._prepare_or_fail, source, _name_of(source, number=number)))

        try:
            refill()
            while window or running:
                ahead = None
                if window:
                    items = _take_ready(window, batch_size)
                    refill()  # before running, so that decoding goes on meanwhile
                    ahead = items, runner.submit(self._run, _readable(items))
                if running:
                    yield from self._outcomes(*running, thresholds)
                running = ahead
        finally:
            runner.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)

    def _chosen(self, thresholds: Mapping[str, float] | None) -> dict[str, float]:
        check_thresholds(thresholds or {}, self.info.classes)
        return {**self.thresholds, **(thresholds or {})}

    def _prepare(self, source: Source, name: str) -> _Prepared:
        start = time.perf_counter()
        radiograph = imaging.load(source, name=name)
        loaded = time.perf_counter()
        planes, geometry = imaging.prepare(radiograph, height=self.info.height, width=self.info.width)
        timings_ms = {"decode": _ms(start, loaded), "prepare": _ms(loaded, time.perf_counter())}
        return _Prepared(name, radiograph, planes, geometry, timings_ms)

    def _prepare_or_fail(self, source: Source, name: str) -> _Prepared | Failure:
        try:
            return self._prepare(source, name)
        except UnreadableImageError as error:
            return Failure(name, str(error))
        except OSError as error:
            return Failure(name, f"{name}: the file could not be read ({error.strerror or error})")

    def _outcomes(
        self, items: Sequence[_Prepared | Failure], run: Future[_Raw], thresholds: dict[str, float]
    ) -> Iterator[Prediction | Failure]:
        """What a batch gave; if it failed, its images run one by one, so that only the culprits fail."""
        try:
            raw = run.result()
        except EngineError as error:
            if len(items) == 1:
                yield Failure(items[0].image, str(error), by_engine=True)
            else:
                for item in items:
                    yield item if isinstance(item, Failure) else self._alone(item, thresholds)
            return
        predictions = self._finished(_readable(items), raw, thresholds)
        for item in items:
            yield item if isinstance(item, Failure) else next(predictions)

    def _alone(self, item: _Prepared, thresholds: dict[str, float]) -> Prediction | Failure:
        try:
            return next(self._finished([item], self._run([item]), thresholds))
        except EngineError as error:
            return Failure(item.image, str(error), by_engine=True)

    def _run(self, items: Sequence[_Prepared]) -> _Raw:
        """The engine's outputs for a batch, and milliseconds an image; raises EngineError."""
        if not items:
            return _Raw({}, 0.0)
        start = time.perf_counter()
        outputs = self._outputs(np.stack([item.planes for item in items]))
        run_ms = _ms(start, time.perf_counter()) / len(items)
        for i, item in enumerate(items):
            if not all(np.isfinite(array[i]).all() for array in outputs.values()):
                engine = f"{self.info.backend} ({self.info.precision}, {self.info.device})"
                raise EngineError(
                    f"{item.image}: the engine {engine} gave values that are not finite; "
                    "choose another engine or precision"
                )
        return _Raw(outputs, run_ms)

    def _finished(self, items: Sequence[_Prepared], raw: _Raw, thresholds: dict[str, float]) -> Iterator[Prediction]:
        for i, item in enumerate(items):
            yield self._finish(item, {name: array[i] for name, array in raw.outputs.items()}, raw.run_ms, thresholds)

    def _outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (N, 1, h, w) -> the engine's outputs; with flip, logits are the mean with those of the mirror image."""
        outputs = self.engine.run(images)
        if not self._flip:
            return outputs
        mirrored = self.engine.run(np.ascontiguousarray(images[..., ::-1]))["logits"][..., ::-1]
        return {**outputs, "logits": (outputs["logits"] + mirrored) / 2, _UNFLIPPED: outputs["logits"]}

    def _finish(
        self, item: _Prepared, outputs: dict[str, np.ndarray], run_ms: float, thresholds: dict[str, float]
    ) -> Prediction:
        start = time.perf_counter()
        timings_ms = {**item.timings_ms, "run": run_ms}
        prediction = Prediction(
            image=item.image,
            radiograph=item.radiograph,
            geometry=item.geometry,
            classes=self.info.classes,
            thresholds=dict(thresholds),
            temperature=dict(self.temperature),
            logits=outputs["logits"],
            attention={name: a[0] for name, a in outputs.items() if name.startswith(_ATTENTION)},
            embedding=outputs.get("embedding"),
            engine=self.info,
            timings_ms=timings_ms,
            familiarity=self._judged(item, outputs),
            share_cuts=self._share_cuts,
        )
        # These compute and keep masks and interval, so that their time is counted here.
        _ = prediction.measurements, prediction.share_interval
        timings_ms["postprocess"] = _ms(start, time.perf_counter())
        return prediction

    def _judged(self, item: _Prepared, outputs: dict[str, np.ndarray]) -> Familiarity | None:
        by_pixels = self._judged_by_pixels(item.geometry, outputs)
        if item.radiograph.frontal:
            return by_pixels
        return Familiarity(None if by_pixels is None else by_pixels.score, familiar=False)

    def _judged_by_pixels(self, geometry: Geometry, outputs: dict[str, np.ndarray]) -> Familiarity | None:
        if self._familiarity is None or "embedding" not in outputs:
            return None
        lungs = None
        if LUNGS in self.info.classes:
            logits = outputs.get(_UNFLIPPED, outputs["logits"])  # which familiarity was fitted to
            lungs = geometry.inside(logits[self.info.classes.index(LUNGS)])
        return self._familiarity(outputs["embedding"], lungs)


def _readable(items: Sequence[_Prepared | Failure]) -> list[_Prepared]:
    return [item for item in items if isinstance(item, _Prepared)]


def _take_ready(window: deque[Future[_Prepared | Failure]], most: int) -> list[_Prepared | Failure]:
    """Wait for the oldest image and take it with those behind it that are ready too, in order."""
    items = [window.popleft().result()]
    while window and len(items) < most and window[0].done():
        items.append(window.popleft().result())
    return items


def _name_of(source: Source, *, name: str | None = None, number: int | None = None) -> str:
    """The base name of a file; for bytes and arrays the name given, else "image" and its number."""
    if name is not None:
        return Path(name).name or name
    if isinstance(source, (str, os.PathLike)):
        return Path(source).name or str(source)
    return "image" if number is None else f"image {number}"


def _ms(start: float, end: float) -> float:
    return (end - start) * 1000
