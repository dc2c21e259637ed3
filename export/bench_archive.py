"""Archive jobs in processes of their own: images a second of one process and of two, and memory. Draws no table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from export.bench_command import bare_throughput, make_images, predict
from sgmsnet.checkpoint import ModelFiles

_AT_MOST_S = 3600


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive through `predict --shard`, one shard a process, beside what the engine alone reaches."""

    images: int
    processes: int
    engine: str
    images_per_s: float
    """From the start of all processes to the end of the last."""
    engine_images_per_s: float
    peak_mb: float | None
    """Of the process that took most."""

    @property
    def share(self) -> float:
        """Of the engine's bare throughput."""
        return self.images_per_s / self.engine_images_per_s


def measure(
    files: ModelFiles, sources: Sequence[Path], *, count: int, processes: Sequence[int] = (1, 2)
) -> list[Archive]:
    """Predict an archive of `count` images of the model's size once for each number of processes.

    Raises CommandFailed or EngineUnavailable.
    """
    engine, rate = bare_throughput(files)
    found = []
    with tempfile.TemporaryDirectory(prefix="sgmsnet-bench-") as name:
        folder = Path(name)
        _make_archive(sources, folder / "in", count=count, side=files.config.height)
        for number in processes:
            seconds, peaks = _job(files, folder / "in", folder / f"out-{number}", processes=number)
            found.append(
                Archive(
                    images=count,
                    processes=number,
                    engine=engine,
                    images_per_s=count / seconds,
                    engine_images_per_s=rate,
                    peak_mb=max(peaks, default=None),
                )
            )
    return found


def _job(files: ModelFiles, images: Path, output: Path, *, processes: int) -> tuple[float, list[float]]:
    """Seconds of all processes together, and the peak memory of each in MB, where it is known."""

    def shard(number: int) -> tuple[float, float | None]:
        options = ("--shard", f"{number}/{processes}")
        return predict(files, [images], output, options=options, at_most_s=_AT_MOST_S)

    start = time.perf_counter()
    with ThreadPoolExecutor(processes) as pool:
        peaks = [peak for _, peak in pool.map(shard, range(1, processes + 1))]
    return time.perf_counter() - start, [peak for peak in peaks if peak is not None]


def _make_archive(sources: Sequence[Path], folder: Path, *, count: int, side: int) -> None:
    """`count` PNG files under names of their own; their content repeats, which the job does not know."""
    made = make_images(sources, folder, count=min(count, len(sources)), side=side)
    for number in range(len(made), count):
        os.link(made[number % len(made)], folder / f"{number:06d}.png")
