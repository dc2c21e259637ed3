"""Many clients at once: every request to REST and page is answered, and answered as it is for one client alone.

    python -m tests.security.load --count 2000 --page 1000 --clients 16 [--write] [-- app.py's options]

exits with 1 when an answer was lost or differs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.needs import ROOT
from tests.security import report
from tests.security.asking import AnswerError, app_running, ask_page, ask_rest, comparable

REST, PAGE, CLIENTS = 2_000, 1_000, 16

Image = tuple[str, bytes]
Ask = Callable[[httpx.Client, Image], dict[str, Any]]


@dataclass
class Outcome:
    """Seconds of each answer by interface, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"REST": [], "page": []})
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0


def examples() -> list[Image]:
    """The example X-rays, as name and bytes."""
    return [(path.name, path.read_bytes()) for path in sorted((ROOT / "examples").glob("*.jpg"))]


def put_under_load(url: str, images: Sequence[Image], *, rest: int, page: int, clients: int) -> Outcome:
    """Ask for each image once alone, then for all of them from many clients at once, REST and page mixed."""
    numbers = itertools.count()

    def by_page(client: httpx.Client, image: Image) -> dict[str, Any]:
        return ask_page(client, image[1], name=image[0], session=f"load{next(numbers)}")

    def by_rest(client: httpx.Client, image: Image) -> dict[str, Any]:
        return ask_rest(client, image[1], name=image[0])

    ways: dict[str, Ask] = {"REST": by_rest, "page": by_page}
    with _client(url) as alone:
        expected = {(way, image[0]): comparable(ask(alone, image)) for way, ask in ways.items() for image in images}
    outcome, mine = Outcome(), threading.local()
    opened: list[httpx.Client] = []

    def one(job: tuple[str, Image]) -> None:
        way, image = job
        if not hasattr(mine, "client"):
            mine.client = _client(url)
            opened.append(mine.client)
        began = time.perf_counter()
        try:
            same = comparable(ways[way](mine.client, image)) == expected[way, image[0]]
        except (AnswerError, httpx.HTTPError, KeyError) as error:
            outcome.lost.append(f"{way}, {image[0]}: {error!r}")
            return
        outcome.seconds[way].append(time.perf_counter() - began)
        if not same:
            outcome.wrong.append(f"{way}, {image[0]}")

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, _jobs(images, rest, page)))
    outcome.took_s = time.perf_counter() - began
    for client in opened:
        client.close()
    return outcome


def _jobs(images: Sequence[Image], rest: int, page: int) -> list[tuple[str, Image]]:
    """As many of each as asked for, evenly mixed."""
    ways = sorted([((i + 0.5) / rest, "REST") for i in range(rest)] + [((i + 0.5) / page, "page") for i in range(page)])
    return [(way, images[i % len(images)]) for i, (_, way) in enumerate(ways)]


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=120)


def _rows(outcome: Outcome, clients: int) -> list[tuple[str, str]]:
    answered = sum(len(seconds) for seconds in outcome.seconds.values())
    rows = [
        ("Clients at once", str(clients)),
        ("Answered", f"{answered:,} in {outcome.took_s:.0f} s ({answered / outcome.took_s:.1f} a second)"),
        ("Lost", str(len(outcome.lost))),
        ("Different from the answer to one client alone", str(len(outcome.wrong))),
    ]
    for way, seconds in outcome.seconds.items():
        if seconds:
            p50, p95 = (report.percentile(seconds, share) * 1000 for share in (0.5, 0.95))
            rows.append((f"{way}: requests, p50, p95", f"{len(seconds):,}, {p50:.0f} ms, {p95:.0f} ms"))
    return rows


def main() -> int:
    """Command line; 1 where an answer was lost or wrong."""
    parser = argparse.ArgumentParser(prog="load")
    parser.add_argument("--count", type=int, default=REST, help="requests to REST")
    parser.add_argument("--page", type=int, help="requests to the page (default: half as many)")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    parser.add_argument("options", nargs="*", help="of app.py, after --")
    given = parser.parse_args()
    page = given.count // 2 if given.page is None else given.page
    with tempfile.TemporaryDirectory(prefix="sgmsnet-load-") as name, app_running(Path(name), *given.options) as app:
        outcome = put_under_load(app.url, examples(), rest=given.count, page=page, clients=given.clients)
    complete = given.count >= REST and page >= PAGE and given.clients >= CLIENTS
    text = report.section("load", "make load", report.table(_rows(outcome, given.clients)), complete=complete)
    report.publish("load", text, write=given.write)
    for line in [*outcome.lost, *outcome.wrong]:
        print(line, file=sys.stderr)
    return 1 if outcome.lost or outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
