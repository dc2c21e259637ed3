"""Starts the page: parses options, chooses an engine, builds the page, launches it. Nothing else lives here.

    python app.py --host 0.0.0.0 --port 8000 --engine onnxruntime --auth ward:secret

Importing this file is cheap: Gradio and the engine are imported when the page starts.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "examples"
RATE_WHEN_REACHABLE = 120
AT_ONCE, AT_ONCE_ON_SERVERS = 2, 16
KEPT_WHEN_SHARED = 60.0
FREE_AT_LEAST = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for; `auth` is (user, password) or None."""

    host: str
    port: int
    share: bool
    auth: tuple[str, str] | None
    rate_limit: int | None
    keep: float
    engine: str
    precision: str | None
    model: str
    triton_url: str | None = None
    at_once: int | None = None
    names: tuple[str, ...] = ()


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Command line -> Options; exits with status 2 and a usage line when an option makes no sense."""
    parser = argparse.ArgumentParser(
        prog="app.py", description="Serve the SGMSNet page. Research demonstration, not a medical device."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=7860, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--name",
        type=_name,
        action="append",
        default=[],
        dest="names",
        metavar="HOST",
        help="public name that a proxy on this machine hands on; may be given more than once",
    )
    parser.add_argument("--share", action="store_true", help="ask Gradio for a public link (password required)")
    parser.add_argument(
        "--auth",
        type=_auth,
        metavar="USER:PASSWORD",
        default=os.environ.get("SGMSNET_AUTH") or None,
        help="ask visitors for a password; the variable SGMSNET_AUTH does so unseen by other users of the machine",
    )
    parser.add_argument(
        "--rate-limit",
        type=_count,
        metavar="N",
        help=f"images a minute and visitor, 0 for any (default: {RATE_WHEN_REACHABLE}, for this machine alone any)",
    )
    parser.add_argument(
        "--keep", type=_minutes, default=60.0, metavar="MINUTES", help="delete files after (default: %(default)g)"
    )
    parser.add_argument("--engine", default="auto", help="auto, onnxruntime, pytorch, ... (default: %(default)s)")
    parser.add_argument(
        "--triton-url", metavar="HOST:PORT", help="server of --engine triton; grpc://HOST:PORT for gRPC"
    )
    parser.add_argument(
        "--at-once",
        type=_few,
        metavar="N",
        help=f"images that run at the same time (default: {AT_ONCE}, with --engine triton {AT_ONCE_ON_SERVERS})",
    )
    parser.add_argument("--precision", help="fp32, bf16, fp16 or int8, where the engine has it")
    parser.add_argument("--model", default="cxr", help="shipped model or .safetensors file (default: %(default)s)")
    given = vars(parser.parse_args(arguments))
    options = Options(**{**given, "names": tuple(given["names"])})
    if options.share and options.keep > KEPT_WHEN_SHARED:
        parser.error(
            f"--share keeps nothing longer than an hour; give a --keep of at most {KEPT_WHEN_SHARED:g} minutes."
        )
    if options.share and options.rate_limit == 0:
        parser.error("--share needs a limit on the rate; give a --rate-limit above 0.")
    return options


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1 and 65535")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host's name, as in xray.example.org")
    return text.lower().rstrip(".")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images a minute")
    return int(text)


def _few(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images between 1 and 1000")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0.05 <= minutes <= 24 * 60:  # also catches nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a time between 0.05 minutes and a day")
    return minutes


def _auth(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user or not password:
        raise argparse.ArgumentTypeError("give a user and a password as USER:PASSWORD")
    return user, password


def credentials(options: Options) -> tuple[str, str] | None:
    """The login visitors need; a public link without one gets a password made up here."""
    if options.auth is None and options.share:
        return "guest", secrets.token_urlsafe(9)
    return options.auth


def cannot_listen(host: str, port: int) -> str | None:
    """Why (host, port) cannot be bound now, or None; asked before the slow imports so that the answer is quick."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"Port {port} on {host} is taken; give another with --port."
            return f"The page cannot listen on {host}, port {port}: {error.strerror or error}."
        except (TypeError, UnicodeError):  # no name that could be looked up
            return f"The page cannot listen on {host}, port {port}: this is no name of a host."
    return None


def address(host: str, port: int) -> str:
    """The address to type into a browser on this machine."""
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def proxies() -> str | None:
    """Whose word on a visitor's address is believed; None for uvicorn's own answer, a proxy on this machine.

    On a Hugging Face Space the site's proxy has a private address; without it all visitors would count as one.
    """
    if "SPACE_ID" not in os.environ:
        return None
    return os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16")


def without_proxy(host: str, environment: Mapping[str, str]) -> str:
    """NO_PROXY for this process: Gradio asks the page itself at start, which HTTP_PROXY would send to the proxy."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(dict.fromkeys([*filter(None, given.split(",")), "127.0.0.1", "localhost", "::1", host]))


def hosts(options: Options) -> frozenset[str] | None:
    """Names the server answers to: this machine's own and those it was given, unless it has a password or is open."""
    if options.share or options.auth or not _loopback(options.host):
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", options.host.lower(), *options.names})


def rate(options: Options) -> int | None:
    """Images a minute and visitor; None for any number."""
    if options.rate_limit is not None:
        return options.rate_limit or None
    return RATE_WHEN_REACHABLE if _reachable(options) else None


def at_once(options: Options) -> int:
    """Images that run at the same time: few where this machine runs them, more where servers do."""
    return options.at_once or (AT_ONCE_ON_SERVERS if options.engine == "triton" else AT_ONCE)


def _reachable(options: Options) -> bool:
    """Whether others than this machine's users may see the page; who asks for a password or names a host expects them.

    On 127.0.0.1 they come through a proxy, and nothing else tells that there is one.
    """
    return options.share or bool(options.auth or options.names) or not _loopback(options.host)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit status."""
    options = parse(arguments)
    if problem := cannot_listen(options.host, options.port):
        print(problem, file=sys.stderr)
        return 1
    # Read by Gradio on import: nothing is reported home, and its queue keeps a short history (it re-summarises
    # that history after every event).
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if trusted := proxies():
        os.environ["FORWARDED_ALLOW_IPS"] = trusted  # read by uvicorn
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(options.host, os.environ)
    from sgmsnet.web import uploads

    with ExitStack() as held:
        try:
            folder = held.enter_context(uploads.folder())  # ends with the process, whatever the cache forgot
            free = shutil.disk_usage(folder).free
        except OSError as error:
            print(f"There is no folder for uploads to be written into: {error.strerror or error}.", file=sys.stderr)
            return 1
        if free < FREE_AT_LEAST:
            print(f"Only {free // 2**20} MB are free in {folder.parents[1]}, too few for uploads.", file=sys.stderr)
            return 1
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        return _serve(options, folder, free)


def _serve(options: Options, folder: Path, free: int) -> int:
    from sgmsnet import checkpoint

    try:
        files = checkpoint.find(options.model)  # before the slow imports: missing or damaged weights are told at once
    except checkpoint.WeightsError as error:
        print(error, file=sys.stderr)
        return 1
    with ThreadPoolExecutor(1) as beside:
        # Gradio takes seconds to import; the engine opens and runs once meanwhile.
        desk_ready = beside.submit(_open_desk, options)
        from sgmsnet.web import janitor, layout, room, server
        from sgmsnet.web.policy import Policy, frames

        try:
            desk = desk_ready.result()
        except (RuntimeError, ValueError, OSError) as error:  # EngineUnavailable, WeightsError: one sentence each
            print(error, file=sys.stderr)
            return 1
    login = credentials(options)
    policy = Policy(
        folder=folder,
        most_bytes=room.most_of(free),
        hosts=hosts(options),
        per_minute=rate(options),
        frames=frames(),
    )
    facts = layout.Facts(address=address(options.host, options.port), kept_min=options.keep, weights=files.weights)
    try:
        served = server.Server(
            desk, policy, host=options.host, port=options.port, login=login, share=options.share, facts=facts
        )
    except OSError as error:
        print(f"The page could not start on port {options.port}: {error}", file=sys.stderr)
        return 1
    sweeping = janitor.Janitor(folder, keep_s=options.keep * 60)
    _announce(options, login, served.public())
    served.wait()
    finished = served.stop()
    sweeping.close()
    print("Stopped." if finished else "Stopped; what was still running after the grace period was cut off.", flush=True)
    return 0


def _open_desk(options: Options) -> Any:
    """The handlers' desk with its first engine warm. Runs beside the import of Gradio."""
    import sgmsnet
    from engines import select, server_address
    from sgmsnet import checkpoint
    from sgmsnet.web.desk import Desk

    if options.triton_url:
        os.environ[server_address.URL] = options.triton_url
    if _reachable(options):
        os.environ[server_address.HIDDEN] = "1"
    files = checkpoint.find(options.model)

    def open_pipeline(engine: str) -> Any:
        precision = options.precision if engine == options.engine else None
        return sgmsnet.load(options.model, engine=engine, precision=precision)

    desk = Desk(
        open_pipeline,
        probe=lambda: select.probe(files),
        first=options.engine,
        examples=EXAMPLES,
        at_once=at_once(options),
    )
    desk.warm()
    return desk


def _announce(options: Options, login: tuple[str, str] | None, public: str | None) -> None:
    print(f"SGMSNet is ready: {address(options.host, options.port)}", flush=True)
    if login is not None and options.auth is None:
        print(f"Visitors log in as {login[0]} with the password {login[1]}", flush=True)
    if public is not None:
        print(public, flush=True)


if __name__ == "__main__":
    # A polite stop leaves through the ordinary way out, so that the folder of uploads is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.exit(main())
