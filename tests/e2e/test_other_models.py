"""The page of a model of the user's own: one class, neither lungs nor infection, and no attention maps."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import torch
from playwright.sync_api import expect

from sgmsnet.checkpoint import save
from sgmsnet.config import ModelConfig
from sgmsnet.imaging import load, prepare
from sgmsnet.model import SGMSNet
from tests.e2e.conftest import served
from tests.e2e.visit import CHEST, OpenPage, upload, wait_for_result


@pytest.fixture(scope="module")
def address(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mine")
    plain = {"classes": ["heart_shadow"], "memory_stages": [], "gates": False, "spatial_attention": False}
    network = SGMSNet(ModelConfig.from_dict(tiny_config.to_dict() | plain)).eval()
    config = network.config
    planes, _ = prepare(load(CHEST), height=config.height, width=config.width)
    with torch.no_grad():  # half of the chest is heart, whatever the random weights say
        network.head.bias -= network(torch.from_numpy(planes)[None])["logits"].median()
    with served(str(save(folder / "mine.safetensors", network, name="mine")), folder) as url:
        yield url


def test_the_figure_is_the_area_and_what_is_not_there_is_not_offered(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    expect(page.locator(".sg-head")).to_contain_text("Heart shadow in chest X-rays")
    expect(page.locator(".sv-what")).to_have_text("Heart shadow")
    expect(page.locator(".sv-total strong")).to_contain_text("px")
    expect(page.locator(".sv-live")).to_contain_text("Heart shadow")
    expect(page.locator(".sv-note")).to_be_empty()
    assert "Heart shadow: " in page.locator(".sv-canvas").get_attribute("aria-label")
    assert "nfected" not in page.locator(".sv").inner_text()
    expect(page.locator(".sv-maps")).to_be_hidden()
    page.locator(".sv-keys summary").click()
    expect(page.locator(".sv-digits-of")).to_have_text("heart shadow on and off")
    before = page.locator(".sv-total").inner_text()
    page.locator("[data-threshold=heart_shadow]").fill("0.9")
    expect(page.locator(".sv-total")).not_to_have_text(before)
    assert "look like pneumonia" not in (page.locator("body").text_content() or "")


def test_no_reason_tells_where_the_weights_lie(address: str) -> None:
    told = httpx.get(f"{address}/v1/models", trust_env=False).text
    assert "mine.safetensors" in told, "an engine without its graph says how to make it"
    assert "/" not in told.split("--model ")[1].split(" ")[0]
