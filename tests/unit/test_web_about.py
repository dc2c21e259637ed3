"""About: the shipped card without what the server cannot show, how to cite, and calls with a plain address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgmsnet import checkpoint
from sgmsnet.web import about
from tests.needs import ROOT

SHIPPED = checkpoint.SHIPPED / "cxr.safetensors"


def test_the_shipped_card_is_whole_but_for_pictures_and_links_to_files() -> None:
    sections = dict(about.card(SHIPPED))
    assert {"Data", "Where it fails", "Licence of the weights"} <= set(sections)
    assert "Not a medical device" in sections[""]
    assert "research and teaching" in sections["Licence of the weights"]
    source = (checkpoint.SHIPPED / "README.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.*)$", source, flags=re.MULTILINE):
        assert sections[heading]
    text = "".join(sections.values())
    assert "](" not in text
    assert "license_name" not in text


def test_pictures_go_links_to_files_become_text_and_those_to_pages_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "# mine.safetensors\n\n![a](https://x.org/a.png) <img src='b.png'> [notes](../notes.md) [paper](https://x.org/)\n"
    )
    [(_, text)] = about.card(tmp_path / "mine.safetensors")
    assert text == "**mine.safetensors**\n\n  notes [paper](https://x.org/)"


@pytest.mark.parametrize("card", [None, "# A card of other.safetensors\n"])
def test_a_model_without_a_card_of_its_own_is_said_to_have_none(tmp_path: Path, card: str | None) -> None:
    if card:
        (tmp_path / "README.md").write_text(card)
    assert about.card(tmp_path / "mine.safetensors") == [("", "There is no model card for `mine.safetensors`.")]


def test_the_citation_is_that_of_citation_cff() -> None:
    text = about.citation()
    assert "@inproceedings" in text
    doi = re.search(r"doi: (\S+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert doi
    assert f"doi = {{{doi[1]}}}" in text


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"host": "127.0.0.1:7860"}, "http://127.0.0.1:7860"),
        ({"host": "[::1]:80"}, "http://[::1]:80"),
        ({"host": "inner", "x-forwarded-host": "a.example, b", "x-forwarded-proto": "https,http"}, "https://a.example"),
        ({}, None),
        ({"host": "a.example/`<b>"}, None),
        ({"host": "a.example", "x-forwarded-proto": "javascript"}, None),
    ],
)
def test_the_address_shown_is_the_one_that_was_asked_if_it_is_plain(headers: dict[str, str], shown: str | None) -> None:
    assert about.origin(headers, "http") == shown


@pytest.mark.parametrize(
    ("minutes", "words"), [(60.0, "an hour"), (0.5, "30 seconds"), (10.0, "10 minutes"), (1440.0, "24 hours")]
)
def test_how_long_uploads_are_kept_is_said_in_words(minutes: float, words: str) -> None:
    assert about.kept(minutes) == words
