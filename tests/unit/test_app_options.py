"""The command line of the page, and that asking for it costs nothing."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys

import pytest
from uvicorn.middleware.proxy_headers import _TrustedHosts

import app
from engines import select, server_address
from sgmsnet import checkpoint
from sgmsnet.web import desk, uploads
from tests.needs import ROOT
from tests.security.serving import free_port


def test_importing_app_loads_neither_torch_nor_gradio() -> None:
    heavy = "{'torch', 'gradio', 'onnxruntime', 'numpy'}"
    code = f"import sys, app; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_defaults_serve_this_machine_only() -> None:
    options = app.parse([])
    assert (options.host, options.port, options.share, options.auth) == ("127.0.0.1", 7860, False, None)
    assert (options.engine, options.precision, options.model) == ("auto", None, "cxr")


def test_every_option_is_taken() -> None:
    line = "--host 0.0.0.0 --port 80 --share --auth a:b:c --rate-limit 30 --keep 10 --engine pytorch --precision bf16"
    options = app.parse([*line.split(), "--model", "m.safetensors", "--name", "xray.example"])
    assert options == app.Options(
        host="0.0.0.0",
        port=80,
        share=True,
        auth=("a", "b:c"),
        rate_limit=30,
        keep=10.0,
        engine="pytorch",
        precision="bf16",
        model="m.safetensors",
        names=("xray.example",),
    )


def test_the_password_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGMSNET_AUTH", "ward:se:cret")
    assert app.parse([]).auth == ("ward", "se:cret")
    assert app.parse(["--auth", "night:shift"]).auth == ("night", "shift")
    monkeypatch.setenv("SGMSNET_AUTH", "ward")
    with pytest.raises(SystemExit):
        app.parse([])
    assert "USER:PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("SGMSNET_AUTH", "")
    assert app.parse([]).auth is None


@pytest.mark.parametrize(
    "line",
    [
        "--auth user",
        "--auth user:",
        "--auth :word",
        "--port 0",
        "--port 65536",
        "--port x",
        "--port -1",
        "--rate-limit -1",
        "--rate-limit x",
        "--at-once 0",
        "--at-once x",
        "--keep 0",
        "--keep nan",
        "--keep inf",
        "--keep x",
        "--name https://xray.example",
        "--name xray.example:443",
        "--name x/y",
    ],
)
def test_options_without_sense_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        app.parse(line.split())
    assert stop.value.code == 2
    assert line.split()[0] in capsys.readouterr().err


def test_a_public_link_always_has_a_password() -> None:
    assert app.credentials(app.parse([])) is None
    assert app.credentials(app.parse(["--share", "--auth", "me:word"])) == ("me", "word")
    first, second = (app.credentials(app.parse(["--share"])) for _ in range(2))
    assert first is not None
    assert second is not None
    assert len(first[1]) >= 12
    assert first[1] != second[1]


@pytest.mark.parametrize(("option", "says"), [("--keep 61", "at most 60 minutes"), ("--rate-limit 0", "above 0")])
def test_a_public_link_has_its_limits(option: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    app.parse(option.split())  # for this machine alone it may be
    with pytest.raises(SystemExit) as stop:
        app.parse(["--share", *option.split()])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert app.parse(["--share", "--keep", "60", "--rate-limit", "1"]).share


@pytest.mark.parametrize(("host", "says"), [("no-such-host.invalid", "."), ("ä" * 70, "no name of a host.")])
def test_another_reason_than_a_taken_port_is_told(host: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--host", host, "--port", str(free_port())]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(f"The page cannot listen on {host}, port ")
    assert says in said
    assert "taken" not in said


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.EACCES, "Permission denied"), (errno.EADDRNOTAVAIL, "Cannot assign requested address")]
)
def test_a_port_that_may_not_be_used_is_not_called_taken(
    code: int, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: object) -> None:
        raise OSError(code, reason)

    monkeypatch.setattr(app.socket.socket, "bind", forbidden)
    assert app.main(["--port", "80"]) == 1
    assert capsys.readouterr().err == f"The page cannot listen on 127.0.0.1, port 80: {reason}.\n"


def test_a_taken_port_is_one_sentence_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert app.main(["--port", str(port)]) == 1
    assert capsys.readouterr().err == f"Port {port} on 127.0.0.1 is taken; give another with --port.\n"


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "http://127.0.0.1:7860"), ("0.0.0.0", "http://127.0.0.1:7860"), ("::1", "http://[::1]:7860")],
)
def test_the_address_can_be_typed_into_a_browser(host: str, shown: str) -> None:
    assert app.address(host, 7860) == shown


@pytest.mark.parametrize("line", ["", "--host localhost", "--host ::1"])
def test_without_a_password_only_names_of_this_machine_are_answered_to(line: str) -> None:
    options = app.parse(line.split())
    assert app.hosts(options) == {"localhost", "127.0.0.1", "[::1]", options.host}
    assert app.rate(options) is None


@pytest.mark.parametrize("line", ["--share", "--host 0.0.0.0", "--host ward.example"])
def test_who_can_be_reached_answers_to_any_name_at_a_limited_rate(line: str) -> None:
    options = app.parse(line.split())
    assert app.hosts(options) is None
    assert app.rate(options) == app.RATE_WHEN_REACHABLE
    assert app.rate(app.parse([*line.split(), "--rate-limit", "7"])) == 7
    if "--share" not in line:
        assert app.rate(app.parse([*line.split(), "--rate-limit", "0"])) is None


@pytest.mark.parametrize("line", ["--name XRay.example.org. --name chests.example", "--auth ward:word"])
def test_behind_a_proxy_each_visitor_has_limits_and_sees_no_server_s_address(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = app.parse(line.split())
    named = {"localhost", "127.0.0.1", "[::1]", "xray.example.org", "chests.example"}
    assert app.hosts(options) == (None if options.auth else named)
    assert app.rate(options) == app.RATE_WHEN_REACHABLE
    assert app.rate(app.parse([*line.split(), "--rate-limit", "0"])) is None
    monkeypatch.setenv(server_address.HIDDEN, "")
    monkeypatch.setattr(app, "EXAMPLES", ROOT / "no-such-folder")
    monkeypatch.setattr(checkpoint, "find", lambda _: None)
    monkeypatch.setattr(desk.Desk, "warm", lambda _: None)
    monkeypatch.setattr(select, "probe", lambda _: ())
    app._open_desk(options)
    assert server_address.hidden()


@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({}, []),
        ({"NO_PROXY": "pacs.example.org,10.0.0.0/8"}, ["pacs.example.org", "10.0.0.0/8"]),
        ({"no_proxy": "*"}, ["*"]),
    ],
)
def test_a_proxy_for_the_outside_is_not_asked_for_the_page_itself(environment: dict[str, str], kept: list[str]) -> None:
    named = app.without_proxy("10.1.2.3", environment).split(",")
    assert named == [*kept, "127.0.0.1", "localhost", "::1", "10.1.2.3"]


def test_the_proxy_of_a_space_is_believed_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    assert app.proxies() is None
    monkeypatch.setenv("SPACE_ID", "someone/sgmsnet")
    trusted = _TrustedHosts(app.proxies() or "")
    assert trusted.get_trusted_client_address("203.0.113.5, 198.51.100.7, 10.20.1.1")[0] == "198.51.100.7"
    assert "10.20.1.1" in trusted
    assert "198.51.100.7" not in trusted


def test_a_folder_for_uploads_that_cannot_be_written_is_one_sentence_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads.tempfile, "TemporaryDirectory", full)
    assert app.main(["--port", str(free_port())]) == 1
    assert capsys.readouterr().err == "There is no folder for uploads to be written into: No space left on device.\n"


def test_a_nearly_full_disk_is_one_sentence_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 9 * 2**20))
    assert app.main(["--port", str(free_port())]) == 1
    assert capsys.readouterr().err.startswith("Only 9 MB are free in ")
