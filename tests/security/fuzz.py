"""Feeds damaged files to imaging, and to REST and page of a running server: each is read or refused in a sentence.

    python -m tests.security.fuzz --count 10000 --through 2000 [--write]

exits with 1 when an input crashed, took too long or too much memory, or was answered with a traceback or 5xx. The
input in hand lies in FOLDER/current.bin (--folder), so that it is there after a crash as well.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from sgmsnet import imaging
from tests.needs import ROOT
from tests.security import mutate, report
from tests.security.asking import ask_page, raw_request, server_memory_mb
from tests.security.serving import Running, running

INPUTS, THROUGH = 10_000, 2_000
LONGEST_S, MOST_MB = 5.0, 1536.0
NAMES = (
    "chest.png",
    "../../etc/passwd",
    "röntgen.dcm",
    "a" * 4000,
    "x\\y\\z.png",
    "\U0001f480.tif",
    "con.",
    "a\u202eb.png",
    "a\0b.png",
)
HEADERS = {
    "Origin": (b"http://[", b"http://[::1", b"//", b"null", b"http://\xff", b"http://a:b:c", b"http://[v1.x]"),
    "Content-Type": (
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=b; charset=idna",
        b"multipart/form-data; boundary=b; charset=\xff",
        b"multipart/form-data; boundary=" + b"b" * 300,
        b"application/json; charset=utf-16",
        b"\xff/\xfe; =",
        b"",
    ),
    "Content-Length": (b"-1", b"1e3", b"0x10", b"+3", b"3, 3", b"9" * 30, b"\xb2", b""),
    "Cookie": (b"access-token=%s", b"=;=;;", b"access-token", b"\xff=\xfe", b"a=" + b"b" * 4000),
    "Authorization": (b"Basic", b"Basic \xff", b"Basic OjpA", b"Basic YQ==", b"Bearer x", b"Basic " + b"A" * 5000),
}
"""Values that have no sense, from which others are made by changing bytes."""
PATHS = ("/v1/segment", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/call/segment", "/login")


@dataclass
class Outcome:
    """What became of the inputs, and the figures that are promised."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    peak_mb: float = 0.0

    def took(self, number: int, began: float) -> None:
        """Note the time since `began`."""
        seconds = time.perf_counter() - began
        self.longest_s = max(self.longest_s, seconds)
        if seconds > LONGEST_S:
            self.faults.append(f"input {number} took {seconds:.1f} s")

    def used(self, memory_mb: float) -> None:
        """Note the memory in use."""
        if memory_mb > MOST_MB >= self.peak_mb:
            self.faults.append(f"{memory_mb:.0f} MB resident")
        self.peak_mb = max(self.peak_mb, memory_mb)


def sentence(text: str) -> bool:
    """Whether a person may be shown this: one line, an end, and nothing from the inside."""
    return bool(text) and "\n" not in text and text.endswith(".") and "Traceback" not in text and ".py" not in text


def through_imaging(count: int, *, folder: Path, real: Path | None, seed: int = 7) -> Outcome:
    """Load `count` damaged files; nothing but a Radiograph or UnreadableImageError may come of it."""
    small, large = mutate.seeds(real)
    large.append(mutate.large("PNG"))
    outcome = Outcome()
    current = (folder / "current.bin").open("wb", buffering=0)
    for number in range(count):
        data = mutate.damaged(number, small, large, seed=seed)
        current.seek(0)
        current.truncate()
        current.write(data)
        began = time.perf_counter()
        try:
            imaging.load(data, name="chest")
            outcome.counts["read"] += 1
        except imaging.UnreadableImageError as error:
            outcome.counts["refused"] += 1
            if not sentence(str(error)):
                outcome.faults.append(f"input {number}: {error}")
        except Exception as error:  # noqa: BLE001 - that is what is being looked for
            outcome.faults.append(f"input {number}: {type(error).__name__}: {error}")
        outcome.took(number, began)
        if number % 50 == 0:
            outcome.used(_own_memory_mb())
    current.close()
    outcome.used(_own_memory_mb())
    return outcome


def through_server(count: int, server: Running, *, real: Path | None, seed: int = 8) -> Outcome:
    """Send damaged files, forms, calls and paths; every answer is a result or a refusal below 500."""
    small, large = mutate.seeds(real)
    outcome = Outcome()
    for number in range(count):
        dice = random.Random(f"{seed}:{number}")
        data = mutate.damaged(number, small, large, seed=seed)
        began = time.perf_counter()
        try:
            kind, fault = _send(server, data, dice)
        except Exception as error:  # noqa: BLE001 - a connection that breaks is a fault like any other
            kind, fault = "broken", f"{type(error).__name__}: {error}"
        outcome.counts[kind] += 1
        if fault:
            outcome.faults.append(f"input {number}: {fault}")
        outcome.took(number, began)
        if number % 50 == 0:
            outcome.used(server_memory_mb(server.client))
    outcome.used(server_memory_mb(server.client))
    if server.client.get("/ready").status_code != 200:
        outcome.faults.append("not ready afterwards")
    return outcome


def _send(server: Running, data: bytes, dice: random.Random) -> tuple[str, str]:
    name = dice.choice(NAMES)
    way = dice.randrange(11)
    if way < 5:
        answer = server.client.post("/v1/segment", files={"file": (name, data)}, params={"masks": "none"})
        return _judge("REST, file", answer)
    if way == 5:  # the form itself is damaged
        form = bytearray(b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + data[:3000])
        form += b"\r\n--b--\r\n"
        for _ in range(3):
            form[dice.randrange(min(len(form), 200))] = dice.randrange(256)
        headers = {"content-type": "multipart/form-data; boundary=b"}
        return _judge("REST, form", server.client.post("/v1/segment", content=bytes(form), headers=headers))
    if way == 6:  # a call that the page would never make
        call = dice.choice((data[:500], b'{"data": [%s], "fn_index": 0, "session_hash": "f"}' % data[:50]))
        headers = {"content-type": "application/json"}
        path = dice.choice(("/gradio_api/queue/join", "/gradio_api/call/segment", "/gradio_api/cancel"))
        return _judge("page, call", server.client.post(path, content=call, headers=headers))
    if way == 7:  # a header is damaged, or a file name holds what no client would send
        return _judge_raw("both, header", raw_request(server, _request(data[:2000], dice)))
    shown = ask_page(server.client, data, name=name, session=f"fuzz{dice.randrange(10**9)}")
    said = shown["error"]
    return "page, file", "" if said is None or sentence(said) else f"the page said {said!r}"


def _request(data: bytes, dice: random.Random) -> bytes:
    """A POST with a file, one header of which is not what it should be."""
    field = dice.choice((b"file", b"files"))
    name = dice.choice((b"a\0b.png", b"\0", b"a.png", b"a\xff.png"))
    body = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n--b--\r\n' % (
        field,
        name,
        data,
    )
    headers = {
        "Host": b"localhost",
        "Connection": b"close",
        "Content-Type": b"multipart/form-data; boundary=b",
        "Content-Length": str(len(body)).encode(),
    }
    damaged = dice.choice(tuple(HEADERS))
    value = bytearray(dice.choice(HEADERS[damaged]))
    for _ in range(dice.choice((0, 0, 1, 2))):
        if value:
            value[dice.randrange(len(value))] = dice.randrange(256)
    if not (
        damaged == "Content-Length" and value.strip().isdigit() and int(value) < 10**9
    ):  # or it would be waited for
        headers[damaged] = bytes(value)
    head = b"".join(b"%s: %s\r\n" % (header.encode(), text) for header, text in headers.items())
    return b"POST %s HTTP/1.1\r\n%s\r\n%s" % (dice.choice(PATHS).encode(), head, body)


def _judge_raw(kind: str, answer: bytes) -> tuple[str, str]:
    status, _, rest = answer.removeprefix(b"HTTP/1.1 ").partition(b" ")
    if not status.isdigit() or int(status) >= 500 or b"Traceback" in rest:
        return kind, f"{kind}: {answer[:300]!r}"
    return kind, ""


def _judge(kind: str, answer: httpx.Response) -> tuple[str, str]:
    if answer.status_code >= 500:
        return kind, f"{kind}: {answer.status_code} {answer.text[:200]}"
    if kind == "REST, file" and answer.status_code != 200 and not sentence(answer.json()["error"]):
        return kind, f"{kind}: {answer.text[:200]}"
    return kind, f"{kind}: a traceback" if "Traceback" in answer.text else ""


def _own_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _rows(what: str, outcome: Outcome, seconds: float) -> list[tuple[str, str]]:
    parts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcome.counts.items()))
    return [
        (f"Inputs through {what}", f"{sum(outcome.counts.values()):,} ({parts}) in {seconds:.0f} s"),
        ("Crashes, tracebacks, 5xx, over 5 s, over 1.5 GB", str(len(outcome.faults))),
        ("Longest input", f"{outcome.longest_s:.2f} s"),
        ("Most memory resident", f"{outcome.peak_mb:.0f} MB"),
    ]


def main() -> int:
    """Command line; 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=INPUTS, help="inputs through imaging")
    parser.add_argument("--through", type=int, help="inputs through REST and page (default: a fifth)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data" / "dicom", help="DICOM files")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    given = parser.parse_args()
    through = given.count // 5 if given.through is None else given.through
    real = given.real if given.real.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sgmsnet-fuzz-") as name:
        began = time.perf_counter()
        first = through_imaging(given.count, folder=Path(name), real=real, seed=given.seed)
        middle = time.perf_counter()
        with running(Path(name), plain={}) as servers:
            second = through_server(through, servers["plain"], real=real, seed=given.seed + 1)
        end = time.perf_counter()
    rows = [*_rows("imaging", first, middle - began), *_rows("REST and page", second, end - middle)]
    complete = given.count >= INPUTS and through >= THROUGH
    text = report.section("fuzz", "make fuzz", report.table(rows), complete=complete)
    report.publish("fuzz", text, write=given.write)
    for fault in [*first.faults, *second.faults]:
        print(fault, file=sys.stderr)
    return 1 if first.faults or second.faults else 0


if __name__ == "__main__":
    sys.exit(main())
