"""The page as it is built, without a browser: what it says of its server, and whose masks a download gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import pytest
from PIL import Image

import app
from sgmsnet.web import chosen, handlers, layout, server
from sgmsnet.web.desk import Desk, Source
from sgmsnet.web.policy import Policy
from tests.fakes import draw_xray
from tests.security.serving import fake_desk

LINK = "https://0123456789abcdef.gradio.live"


Made = TypeVar("Made")


def in_loop(make: Callable[[], Made]) -> Made:
    """Build a page where an event loop runs: Gradio would make one otherwise, and leave it open."""

    async def run() -> Made:
        return make()

    return asyncio.run(run())


def build(desk: Desk, facts: layout.Facts | None = None) -> gr.Blocks:
    return in_loop(lambda: layout.build(desk, facts))


def event(page: gr.Blocks, name: str, *, module: str = "") -> Callable[..., Any]:
    """The page's function of this name, to be called without a server."""
    named = {one.fn for one in page.fns.values() if one.fn is not None and one.fn.__name__ == name}
    [found] = [function for function in named if function.__module__.endswith(module)]
    return found  # type: ignore[no-any-return]


def shown_texts(page: gr.Blocks) -> str:
    return json.dumps([one["props"].get("value") for one in page.get_config_file()["components"]])


def test_the_page_says_how_long_uploads_are_kept_and_gradio_keeps_them_as_long() -> None:
    page = build(fake_desk(), layout.Facts(kept_min=10))
    assert "deleted after about 10 minutes" in shown_texts(page)
    assert "hour" not in shown_texts(page)
    assert page.delete_cache == (layout.UPLOADS_CHECKED_S, 600)
    assert build(fake_desk(), layout.Facts(kept_min=120)).delete_cache == (layout.UPLOADS_CHECKED_S, 7200)


def test_examples_with_one_caption_can_be_told_apart() -> None:
    assert layout.numbered(["a", "b", "a"]) == ["a (1)", "b", "a (2)"]
    captions = layout.numbered([one.caption for one in fake_desk().examples.values()])
    assert len(captions) == len(set(captions)) > 5


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    path = tmp_path / "slow.png"
    Image.fromarray(draw_xray(200, 240, sick=((0.2, 0.5, 0.4, 0.7),))).save(path)
    return path


@pytest.mark.parametrize("kind", [None, "overlay", "report"])
def test_a_download_is_of_the_x_ray_that_is_shown_or_refused(chest: Path, kind: str | None) -> None:
    desk = fake_desk()
    page = build(desk)
    example = event(page, "choose")(None, "fake", {"example": "covid_adult_1.jpg", "shown": False})
    uploaded = event(page, "segment")(str(chest), "fake")  # begun earlier, but it ends last

    def download(shown: dict[str, Any], kept: Source | None) -> dict[str, Any]:
        asked = {"ticket": "7", "kind": kind, "run": shown["run"], "engine": "fake", "thresholds": {"lungs": 0.3}}
        return dict(event(page, "at_thresholds")(gr.EventData(None, asked), kept))

    for payload, kept in (example, uploaded):
        answer = download(payload, kept)
        assert (answer["error"], answer["ticket"]) == (None, "7")
        if kind is None:
            assert answer["record"]["image"] == payload["name"]
        else:
            assert answer["file"]["name"].startswith(Path(payload["name"]).stem)
    refused = download(example[0], uploaded[1])  # the browser still shows the example
    assert refused == {"run": refused["run"], "error": handlers.OVERTAKEN, "ticket": "7"}
    assert b'action="download"} 3.0' in desk.metrics.text()


def test_another_engine_s_result_is_the_one_that_downloads_are_of(chest: Path) -> None:
    page = build(fake_desk())
    payload, kept = event(page, "segment")(str(chest), "fake")
    again, kept_again = event(page, "choose")(kept, "fake", {"example": None, "shown": True})
    assert again["run"] == kept_again.run != payload["run"] == kept.run


def test_an_image_that_is_shown_but_no_longer_kept_is_asked_for_again(chest: Path) -> None:
    page = build(fake_desk())
    choose, sentence = event(page, "choose"), chosen.NO_LONGER_HELD
    payload, kept = choose(None, "fake", {"example": None, "shown": True})
    assert (payload["error"], kept) == (sentence, None)
    asked = {"ticket": "7", "kind": "overlay", "run": "gone", "engine": "fake", "thresholds": {}}
    answer = event(page, "at_thresholds")(gr.EventData(None, asked), None)
    assert (answer["error"], answer["ticket"]) == (sentence, "7")
    thresholds = {"lungs": 0.4}
    assert sentence in event(page, "measure")(str(chest), "lungs", None, "fake", thresholds)
    assert sentence in list(event(page, "run", module="compare_panel")(None, thresholds))[-1]
    # Where nothing is shown there was nothing to keep.
    assert "Choose an X-ray first." in event(page, "measure")(str(chest), "lungs", None, "fake", None)
    assert "Choose an X-ray first." in list(event(page, "run", module="compare_panel")(None, None))[-1]
    for nothing in ({"example": None, "shown": False}, {"example": "", "shown": True}, None, 7, {}):
        assert choose(None, "fake", nothing) == (gr.skip(), gr.skip())


def test_what_is_chosen_meanwhile_has_its_turn_afterwards() -> None:
    page = build(fake_desk())
    [choose] = [one for one in page.fns.values() if one.fn is not None and one.fn.__name__ == "choose"]
    assert choose.trigger_mode == "always_last"
    assert [name for _, name in choose.targets] == ["click", "input"]
    [measure] = [one for one in page.fns.values() if one.fn is not None and one.fn.__name__ == "measure_if_any"]
    assert (measure.trigger_mode, [name for _, name in measure.targets]) == ("always_last", ["upload", "input"])
    refused = [one for one in page.fns.values() if one.trigger_only_on_failure]
    assert {choose._id} < {one.trigger_after for one in refused}


def test_no_visitor_s_download_or_mask_waits_for_another_s_alone() -> None:
    desk = fake_desk(at_once=3)
    page = build(desk)
    lanes = {
        (one.fn.__name__, one.concurrency_id): one.concurrency_limit
        for one in page.fns.values()
        if one.fn is not None and one.concurrency_id in ("model", "download", "truth")
    }
    named = {
        "segment": "model",
        "choose": "model",
        "at_thresholds": "download",
        "measure": "truth",
        "measure_if_any": "truth",
    }
    assert lanes == dict.fromkeys(named.items(), 3)


def test_gradio_keeps_the_results_of_few_visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: dict[str, Any] = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: launched.update(options) or (None, "", None))
    in_loop(lambda: server.Server(fake_desk(), Policy(folder=tmp_path), host="127.0.0.1", port=1))
    assert launched["state_session_capacity"] == server.SESSIONS_KEPT == 100


def test_what_is_asked_for_beside_segmentation_is_counted(chest: Path) -> None:
    desk = fake_desk()
    page = build(desk)
    _, kept = event(page, "segment")(str(chest), "fake")
    assert "Dice" in event(page, "measure")(str(chest), "lungs", kept, "fake", None)
    assert "rounds" in list(event(page, "run", module="compare_panel")(kept, None))[-1]
    text = desk.metrics.text().decode()
    for action in ("truth", "compare"):
        assert f'sgmsnet_actions_total{{action="{action}"}} 1.0' in text


@pytest.mark.parametrize("link", [LINK, None])
def test_a_public_link_is_printed_and_shown_or_said_to_be_missing(
    link: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: (None, "", link if options["share"] else None))

    def served(*, share: bool) -> tuple[server.Server, dict[str, Any]]:
        desk, policy = fake_desk(), Policy(folder=tmp_path)
        made = in_loop(lambda: server.Server(desk, policy, host="127.0.0.1", port=1, share=share))
        request = gr.Request(headers={"host": "chests.example"}, url="http://chests.example/")
        request.url = type("Url", (), {"scheme": "http"})
        update, calls = event(made._page, "arrive")(request)
        assert "http://chests.example/v1/segment" in calls
        return made, update

    made, update = served(share=True)
    sentence = f"Public link: {link}" if link else "No public link could be made; the local page keeps running."
    app._announce(app.parse(["--share"]), ("guest", "word"), made.public())
    assert capsys.readouterr().out.splitlines()[-1] == sentence
    assert update["visible"]
    assert (f'Public link: <a href="{link}">{link}</a>' if link else sentence) in update["value"]
    made, update = served(share=False)
    app._announce(app.parse([]), None, made.public())
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not update["visible"]
