"""The command line of the page, and that asking for it costs nothing."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

import app
from tests.needs import ROOT


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
    line = "--host 0.0.0.0 --port 80 --share --auth a:b:c --engine pytorch --precision bf16 --model m.safetensors"
    options = app.parse(line.split())
    assert options == app.Options(
        host="0.0.0.0",
        port=80,
        share=True,
        auth=("a", "b:c"),
        engine="pytorch",
        precision="bf16",
        model="m.safetensors",
    )


@pytest.mark.parametrize(
    "line", ["--auth user", "--auth user:", "--auth :word", "--port 0", "--port 65536", "--port x", "--port -1"]
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
