"""`predict` as a person runs it, in processes of its own: start to first mask, and hundreds of images. Draws no table.

Throughput is what the images after the first few take, so that the start is not counted twice.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from engines import select
from engines.base import Engine, EngineUnavailable
from export.machine import ROOT
from sgmsnet.checkpoint import ModelFiles

FIRST_MASK_AT_MOST_S, FIRST_MASK_AT_MOST_MB = 3.0, 500.0
SHARE_AT_LEAST = 0.8
_FEW = 8  # images of the short run, whose time is the start's
_BATCH = 8  # as predict's
_AT_MOST_S = 600
_PROGRAM = "\n".join(
    (
        "import sys",
        "from sgmsnet.cli import main",
        "status = main(sys.argv[1:])",
        "from export.machine import peak_memory_mb",
        "print(peak_memory_mb())",
        "sys.exit(status)",
    )
)


class CommandFailed(RuntimeError):
    """`predict` did not do its work, for the reason given in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A new process of `predict --write masks` with one image: medians over some processes."""

    engine: str
    first_mask_s: float
    """From the start of the process to its end, the masks written."""
    peak_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Many images through `predict`, beside what the engine alone reaches."""

    images: int
    side: int
    write: str
    engine: str
    images_per_s: float
    engine_images_per_s: float
    """Of the engine alone, at batch 8 or 1, whichever is faster."""

    @property
    def share(self) -> float:
        """Of the engine's bare throughput, 0 to 1 and above where decoding costs nothing."""
        return self.images_per_s / self.engine_images_per_s


def measure_starts(files: ModelFiles, image: Path, *, engines: Sequence[str], repeats: int = 3) -> list[Start]:
    """Start `predict` anew, `repeats` times for each engine; raises CommandFailed."""
    starts = []
    for engine in engines:
        with tempfile.TemporaryDirectory(prefix="sgmsnet-bench-") as folder:
            taken = [predict(files, [image], Path(folder, str(i)), engine=engine) for i in range(repeats)]
        peaks = [peak for _, peak in taken if peak is not None]
        starts.append(
            Start(
                engine=engine,
                first_mask_s=median(seconds for seconds, _ in taken),
                peak_mb=median(peaks) if peaks else None,
            )
        )
    return starts


def measure_folder(files: ModelFiles, sources: Sequence[Path], *, count: int, side: int, write: str) -> Folder:
    """Predict `count` PNG images of side x side made of the sources; raises CommandFailed or EngineUnavailable."""
    with tempfile.TemporaryDirectory(prefix="sgmsnet-bench-") as folder:
        images = make_images(sources, Path(folder, "in"), count=count + _FEW, side=side)
        before = bare_throughput(files)
        short, _ = predict(files, images[:_FEW], Path(folder, "few"), write=write)
        long, _ = predict(files, [Path(folder, "in")], Path(folder, "all"), write=write)
        after = bare_throughput(files)
    return Folder(
        images=count,
        side=side,
        write=write,
        engine=before[0],
        images_per_s=count / max(long - short, 1e-9),
        engine_images_per_s=(before[1] + after[1]) / 2,
    )


def bare_throughput(files: ModelFiles, *, seconds: float = 2.0) -> tuple[str, float]:
    """Name of the engine that "auto" takes, and its images per second at the better batch size of 8 and 1."""
    engine = select.open_engine("auto", files)
    try:
        rates = [_rate(engine, batch, seconds=seconds) for batch in (_BATCH, 1)]
        return f"{engine.info.backend} {engine.info.precision}", max(rates)
    finally:
        engine.close()


def _rate(engine: Engine, batch: int, *, seconds: float) -> float:
    shape = (batch, 1, engine.info.height, engine.info.width)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    engine.run(images)
    runs, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        engine.run(images)
        runs += 1
    return runs * batch / taken


def make_images(sources: Sequence[Path], folder: Path, *, count: int, side: int) -> list[Path]:
    """Write `count` grey PNG files of side x side, sources in turn, each darkened a little so that none repeats."""
    folder.mkdir()
    resized = []
    for source in sources:
        with Image.open(source) as image:
            resized.append(np.asarray(image.convert("L").resize((side, side))))
    made = []
    for index in range(count):
        pixels = resized[index % len(resized)].astype(np.float32) * (1 - 0.4 * index / count)
        made.append(folder / f"{index:04d}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(made[-1], compress_level=1)
    return made


def usable(files: ModelFiles, names: Sequence[str]) -> list[str]:
    """Those of the engines that are available here; raises EngineUnavailable when none is."""
    found = [entry.name for entry in select.probe(files) if entry.available and entry.name in names]
    if not found:
        raise EngineUnavailable(f"none of {', '.join(names)} is available here")
    return found


def predict(
    files: ModelFiles,
    inputs: Sequence[Path],
    output: Path,
    *,
    engine: str = "auto",
    write: str = "masks",
    options: Sequence[str] = (),
    at_most_s: float = _AT_MOST_S,
) -> tuple[float, float | None]:
    """Seconds and peak memory in MB of one process of `predict`; raises CommandFailed."""
    arguments = ["predict", *(str(path.resolve()) for path in inputs), "--output", str(output), "--write", write]
    arguments += ["--engine", engine, "--model", str(files.weights.resolve()), *options]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=at_most_s
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"predict did not end within {at_most_s:g} s") from error
    seconds = time.perf_counter() - start
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise CommandFailed(f"predict ended with status {done.returncode}: {last or 'it said nothing'}")
    peak = done.stdout.strip().rpartition("\n")[2]
    return seconds, None if peak == "None" else float(peak)
