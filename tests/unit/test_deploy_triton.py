"""The files of deploy/triton agree with each other, with the exported model and with the page's options."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

import app
from engines.server_address import parse_url
from engines.v2_http import _request
from sgmsnet.checkpoint import find
from tests.needs import ROOT

FOLDER = ROOT / "deploy" / "triton"
HAPROXY = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]


def test_every_service_is_pinned_and_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    assert set(services) == {"triton", "balancer", "page", "prometheus"}
    for name, service in services.items():
        if "image" in service:
            assert re.search(r":[a-z]*\d+\.\d+[\w.-]*$", service["image"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and source != "./models":  # the export writes that
                assert (FOLDER / source).is_file(), source
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing listens to the world unless somebody says so"
    assert (ROOT / services["page"]["build"]["dockerfile"]).is_file()


def test_the_page_s_command_is_one_that_it_takes(services: dict[str, Any]) -> None:
    options = app.parse(services["page"]["command"])
    assert options.engine == "triton"
    assert app.at_once(options) == 16
    assert app.rate(replace(options, host="0.0.0.0")) is None
    assert options.triton_url is not None
    address = parse_url(options.triton_url)
    assert address.host in services
    assert f"bind :{address.port}\n" in HAPROXY


def test_balancer_and_prometheus_ask_the_servers_that_there_are(services: dict[str, Any]) -> None:
    assert set(re.findall(r"server-template triton \d+ (\w+):(\d+)", HAPROXY)) == {
        ("triton", "8000"),
        ("triton", "8001"),
    }
    for backend in re.findall(r"default_backend (\w+)", HAPROXY):
        assert f"\nbackend {backend}\n" in HAPROXY
    assert HAPROXY.count("/v2/models/cxr/ready") == 2
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert jobs[0]["dns_sd_configs"] == [{"names": ["triton"], "type": "A", "port": 8002}]
    assert jobs[1]["static_configs"][0]["targets"] == ["page:7860"]
    assert {"triton", "page"} <= set(services)


def test_a_request_of_the_page_fits_the_balancer_s_buffer_so_that_it_can_be_asked_again() -> None:
    config = find("cxr").config
    body, _ = _request(np.zeros((1, 1, config.height, config.width), np.uint8), config.outputs, binary=True)
    size = re.search(r"^\s+tune\.bufsize (\d+)$", HAPROXY, flags=re.MULTILINE)
    assert size is not None
    assert 2 * len(body) < int(size[1])
    defaults = HAPROXY.partition("\ndefaults\n")[2].partition("\nresolvers")[0]  # for both backends
    assert "retry-on conn-failure empty-response response-timeout" in defaults
    assert "option http-buffer-request" in defaults
    assert HAPROXY.count("retry-on") == 1


def test_haproxy_takes_its_configuration() -> None:
    if not (program := shutil.which("haproxy")):
        pytest.skip("HAProxy is not installed; its configuration was compared with the other files only")
    done = subprocess.run([program, "-c", "-f", str(FOLDER / "haproxy.cfg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
