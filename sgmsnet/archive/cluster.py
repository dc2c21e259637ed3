"""An archive job on a Ray cluster: every shard is a task. A task that is lost with its machine goes on on another.

Tasks and not Ray Data: that runs blocks of rows again when it loses them, but cannot know which files' results lie on
the disk already, and it was slower than one process on one machine; a shard is the same job as anywhere else.

The done-lists make that safe: what a lost task had recorded is not done again. Files and results must lie at the same
paths on all machines, and the results' file system must lock files (NFS 4 and Lustre do).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sgmsnet.archive import ArchiveError

TRIES = 5
"""How often a shard may lose its machine."""
LOCK_WAIT_S = 60.0
PROGRAM = ["-m", "sgmsnet"]
"""What Python runs for a shard."""
_LOCKED = "Another job is writing"


def run(arguments: Sequence[str], *, shards: int, say: Callable[[str], None]) -> int:
    """Run `predict` with these arguments and --shard 1/N to N/N as tasks; the largest exit code of them.

    The cluster is the one that ray.init was called for or that RAY_ADDRESS names, otherwise this machine alone.
    Raises ArchiveError without the package ray, and for a shard that could not be finished.
    """
    try:
        import ray
    except ImportError as error:
        raise ArchiveError(
            "--cluster ray needs the package ray, which is not installed (requirements-ray.txt)."
        ) from error
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    task: Any = ray.remote(max_retries=TRIES, scheduling_strategy="SPREAD")(_shard)
    here = str(Path.cwd())
    open_tasks = {
        task.remote([*PROGRAM, "predict", *arguments, "--shard", f"{number}/{shards}"], here): number
        for number in range(1, shards + 1)
    }
    worst = 0
    while open_tasks:
        [finished], _ = ray.wait(list(open_tasks), num_returns=1)
        number = open_tasks.pop(finished)
        try:
            code, errors = ray.get(finished)
        except ray.exceptions.RayError as error:
            raise ArchiveError(
                f"Shard {number} lost its machine too often ({type(error).__name__}); the same command goes on."
            ) from error
        if code not in (0, 1):
            raise ArchiveError(f"Shard {number} ended with: {errors.strip() or code}")
        for line in errors.splitlines():
            say(line)
        say(f"shard {number} of {shards} is done, {len(open_tasks)} to go")
        worst = max(worst, code)
    return worst


def _shard(arguments: list[str], folder: str) -> tuple[int, str]:
    """One shard in a process of its own, so that its memory and its lock end with it; exit code and errors."""
    command = [sys.executable, *arguments]
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        # The machine that was lost may hold the lock until its file system notices.
        if done.returncode != 2 or _LOCKED not in done.stderr or time.monotonic() > give_up:
            return done.returncode, done.stderr
        time.sleep(2)
