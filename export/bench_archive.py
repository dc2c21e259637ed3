"""`python -m export archive-bench`: images a second of an archive job for one process and for two, and its memory.

Beside it, what the engine does alone with the same images; the part of that which a job reaches is what overlapping
leaves of decoding, encoding and writing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from engines import select
from export.machine import ROOT, disturbance, examine
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.imaging import SUFFIXES, load, prepare

_CHILD = """
import sys
from export.machine import peak_memory_mb
from sgmsnet.cli import main
code = main(["predict", *sys.argv[1:]])
print("MEMORY", peak_memory_mb())
sys.exit(code)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--count", type=int, nargs="+", default=[1000], metavar="N", help="files (default: 1000)")
    parser.add_argument("--write", default="masks", metavar="KINDS", help="as of predict (default: masks)")


def run(options: argparse.Namespace) -> int:
    """Print a table in Markdown."""
    files = find(options.model)
    print(f"{examine().line()}; {disturbance().sentence()}\n", flush=True)
    print(
        "| files | processes | images/s | of the engine alone | peak MB of a process |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory(prefix="sgmsnet-archive-") as name:
        for count in options.count:
            images = _images(Path(name), files, count)
            alone = _engine_alone(options.engine, files, min(count, 400))
            print(f"| {count} | engine alone | {alone:.1f} | 1 | |", flush=True)
            for processes in (1, 2):
                rate, memory = _job(options, images, Path(name) / f"out-{count}-{processes}", count, processes)
                print(f"| {count} | {processes} | {rate:.1f} | {rate / alone:.2f} | {memory:.0f} |", flush=True)
    return 0


def _engine_alone(name: str, files: ModelFiles, count: int) -> float:
    """Images a second in batches of 8, as an archive job runs them."""
    engine = select.open_engine(name, files)
    batch = np.stack([prepare(load(path), height=engine.info.height, width=engine.info.width)[0] for path in _xrays()])[
        :8
    ]
    engine.run(batch)
    start = time.perf_counter()
    for _ in range(max(1, count // len(batch))):
        engine.run(batch)
    rate = max(1, count // len(batch)) * len(batch) / (time.perf_counter() - start)
    engine.close()
    return rate


def _job(options: argparse.Namespace, images: Path, output: Path, count: int, processes: int) -> tuple[float, float]:
    """Images a second from start to end of all processes, starting included; the largest memory of one."""
    command = [
        sys.executable, "-c", _CHILD, str(images), "--output", str(output), "--engine", options.engine,
        "--model", str(options.model), "--write", options.write,
    ]  # fmt: skip
    start = time.perf_counter()
    children = [
        subprocess.Popen([*command, "--shard", f"{number}/{processes}"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(1, processes + 1)
    ]
    told = [child.communicate()[0] for child in children]
    seconds = time.perf_counter() - start
    if any(child.returncode for child in children):
        raise OSError("an archive job failed")
    return count / seconds, max(float(text.rpartition("MEMORY ")[2]) for text in told)


def _images(folder: Path, files: ModelFiles, count: int) -> Path:
    """`count` PNG files of the model's size: the examples, and further names of the same files."""
    target = folder / f"in-{count}"
    target.mkdir()
    from PIL import Image

    firsts = []
    for number, path in enumerate(_xrays()):
        firsts.append(target / f"{number:06d}.png")
        planes, _ = prepare(load(path), height=files.config.height, width=files.config.width)
        Image.fromarray(planes[0]).save(firsts[-1])
    for number in range(len(firsts), count):
        os.link(firsts[number % len(firsts)], target / f"{number:06d}.png")
    return target


def _xrays() -> list[Path]:
    return sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in SUFFIXES - {".dcm"})
