"""Many requests, one after the other: the server's memory stays where it is, and the disk is given back.

    python -m tests.security.soak --count 5000 [--write] [-- app.py's options]

exits with 1 when memory grew by more than 5 % after the first tenth, or files stayed beyond their time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.security import report
from tests.security.asking import app_running, ask_page, ask_rest, files_below, server_memory_mb
from tests.security.load import Image, examples
from tests.security.serving import Running

COUNT, PAGE_EVERY = 5_000, 5
KEEP_MINUTES = 0.5
GROWTH = 1.05


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Memory in MB, and files as (number, bytes)."""

    after_a_tenth_mb: float
    at_the_end_mb: float
    at_the_start: tuple[int, int]
    most: tuple[int, int]
    after_the_time: tuple[int, int]
    waited_s: float

    @property
    def faults(self) -> list[str]:
        """What was promised and does not hold."""
        grown = self.at_the_end_mb / self.after_a_tenth_mb
        return [
            *([f"memory grew by a factor of {grown:.3f}"] if grown > GROWTH else []),
            *(["files stayed on the disk"] if self.after_the_time > self.at_the_start else []),
        ]


def soak(server: Running, images: list[Image], *, count: int, keep_s: float) -> Outcome:
    """Ask `count` times, every fifth time through the page, then wait for the folder to be emptied."""
    start, most, early = files_below(server.folder), (0, 0), 0.0
    for number in range(count):
        if number == max(1, count // 10):
            early = server_memory_mb(server.client)
        name, data = images[number % len(images)]
        unique = f"{number}-{name}"
        if number % PAGE_EVERY == 0:  # other bytes each time: equal files would be stored once
            ask_page(server.client, data + number.to_bytes(4, "big"), name=unique, session=f"soak{number}")
        else:
            ask_rest(server.client, data, name=unique)
        if number % 50 == 0:
            most = max(most, files_below(server.folder))
    late = server_memory_mb(server.client)
    began = time.monotonic()
    while files_below(server.folder) > start and time.monotonic() - began < keep_s * 1.5 + 10:
        time.sleep(0.2)
    return Outcome(
        after_a_tenth_mb=early,
        at_the_end_mb=late,
        at_the_start=start,
        most=most,
        after_the_time=files_below(server.folder),
        waited_s=time.monotonic() - began,
    )


def _rows(outcome: Outcome, count: int, keep_minutes: float) -> list[tuple[str, str]]:
    def files(found: tuple[int, int]) -> str:
        return f"{found[0]:,} files, {found[1] / 2**20:.1f} MB"

    grown = (outcome.at_the_end_mb / outcome.after_a_tenth_mb - 1) * 100
    return [
        (f"Memory resident after {max(1, count // 10):,} requests", f"{outcome.after_a_tenth_mb:.1f} MB"),
        (f"after {count:,} requests", f"{outcome.at_the_end_mb:.1f} MB ({grown:+.1f} %)"),
        ("Uploads on the disk before", files(outcome.at_the_start)),
        ("at most", files(outcome.most)),
        (f"after the retention time (`--keep {keep_minutes:g}`)", files(outcome.after_the_time)),
    ]


def main() -> int:
    """Command line; 1 where a promise was not kept."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--count", type=int, default=COUNT, help="requests, a fifth of them through the page")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    parser.add_argument("options", nargs="*", help="of app.py, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sgmsnet-soak-") as name:
        with app_running(Path(name), "--keep", str(KEEP_MINUTES), *given.options) as app:
            outcome = soak(app, examples(), count=given.count, keep_s=KEEP_MINUTES * 60)
        left = files_below(Path(name) / "tmp")
    rows = [*_rows(outcome, given.count, KEEP_MINUTES), ("Files left after the server ended", str(left[0]))]
    text = report.section("soak", "make soak", report.table(rows), complete=given.count >= COUNT)
    report.publish("soak", text, write=given.write)
    faults = [*outcome.faults, *(["files were left behind"] if left[0] else [])]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
