"""`python -m export capacity`: measures one server's service times, simulates a fleet, and checks it against a load."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines import select
from engines.base import Engine
from engines.server_address import parse_url
from export.capacity import Fleet, Outcome, Service, needed, poisson, simulate
from export.load import apply_load, measure_service
from export.machine import ROOT, examine
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.imaging import SUFFIXES, load, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of capacity."""
    add = parser.add_argument
    add("--servers", nargs="+", metavar="URL", help="servers that are alike and idle; all are loaded by --check")
    add("--service", type=Path, metavar="FILE", help="service times that --save wrote, in the place of servers")
    add("--save", type=Path, metavar="FILE", help="keep the service times")
    add("--rate", type=float, default=50.0, metavar="R", help="requests a second to plan for (default: 50)")
    add("--p95", type=float, default=200.0, metavar="MS", help="latency that 95 %% shall keep (default: 200)")
    add("--batch", type=int, default=8, metavar="N", help="largest batch of a server (default: 8)")
    add("--queue-delay-ms", type=float, default=2.0, metavar="MS", help="longest wait for a batch (default: 2)")
    add("--check", action="store_true", help="load one server, and all, and compare with the simulation")
    add("--seconds", type=float, default=30.0, metavar="S", help="of each load (default: 30)")
    add(
        "--load", type=float, nargs="+", default=[0.4, 0.7], metavar="F", help="of what servers can do (default: .4 .7)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the plan, and the comparison where it was asked for, as Markdown."""
    if bool(options.servers) == bool(options.service):
        raise ValueError("give --servers, or the --service times that were measured of one")
    if options.check and not options.servers:
        raise ValueError("--check needs --servers")
    fleet = Fleet(servers=1, batch_max=options.batch, queue_delay_ms=options.queue_delay_ms)
    if options.service:
        service, engines, images = _read(options.service), [], np.empty(0)
    else:
        files = find(options.model)
        images = _images(files)
        engines = [select.open_server(parse_url(url), files) for url in options.servers]
        service = measure_service(engines[0], images, spent=engines[0].spent)
    try:
        if options.save:
            _write(options.save, service)
        print(_described(service), examine().line(), sep="\n\n", end="\n\n")
        if options.check:
            _print_table(_compared(options, service, engines, images))
        plan = needed(service, rate=options.rate, p95_ms=options.p95, fleet=fleet)
    finally:
        for engine in engines:
            engine.close()
    print(
        f"\n{options.rate:g} requests/s with a p95 of {options.p95:g} ms need {plan[-1].servers} servers (simulated):\n"
    )
    _print_table([("simulated", options.rate, found) for found in plan])
    return 0


def _compared(
    options: argparse.Namespace, service: Service, engines: Sequence[Engine], images: np.ndarray
) -> list[tuple[str, float, Outcome]]:
    """Measured and simulated latencies of one server and of all, at parts of what they can do."""
    rows: list[tuple[str, float, Outcome]] = []
    largest = max(size / service.seconds(size, 0.5) for size in service.batch_ms if size <= options.batch)
    for count in sorted({1, len(engines)}):
        fleet = Fleet(servers=count, batch_max=options.batch, queue_delay_ms=options.queue_delay_ms)
        for part in options.load:
            rate = part * largest * count
            print(f"{count} servers, {rate:.1f} requests/s for {options.seconds:g} s", file=sys.stderr, flush=True)
            moments = poisson(rate, max(20, round(rate * options.seconds)), seed=len(rows))
            rows.append(("measured", rate, apply_load(engines[:count], images, moments=moments)))
            rows.append(("simulated", rate, simulate(service, fleet, rate=rate, moments=moments)))
    return rows


def _print_table(rows: Sequence[tuple[str, float, Outcome]]) -> None:
    print("| | servers | asked/s | answered/s | p50 ms | p95 ms | p99 ms | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, rate, found in rows:
        times = " | ".join(f"{value:.1f}" for value in (found.rate, found.p50_ms, found.p95_ms, found.p99_ms))
        print(f"| {kind} | {found.servers} | {rate:.1f} | {times} | {found.failed} |", flush=True)


def _described(service: Service) -> str:
    sizes = (f"{size}: {np.median(times):.1f} ms" for size, times in sorted(service.batch_ms.items()))
    return f"Service time, median by images in a request: {', '.join(sizes)}; beside it {service.overhead_ms:.1f} ms"


def _images(files: ModelFiles) -> np.ndarray:
    """The examples, uint8 (N, 1, H, W)."""
    paths = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in SUFFIXES - {".dcm"})
    size = {"height": files.config.height, "width": files.config.width}
    return np.stack([prepare(load(path), **size)[0] for path in paths])


def _read(path: Path) -> Service:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        batch_ms = {int(size): [float(one) for one in times] for size, times in values["batch_ms"].items()}
        return Service(batch_ms=batch_ms, overhead_ms=float(values["overhead_ms"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no service times") from error


def _write(path: Path, service: Service) -> None:
    text = json.dumps({"batch_ms": dict(service.batch_ms), "overhead_ms": service.overhead_ms})
    path.write_text(text + "\n", encoding="utf-8")
