"""Shows the worst validation cases among X-rays that may be passed on, with what was found and what is true.

    python -m docs.gallery [--model NAME|FILE]

writes gallery.jpg and gallery.md, a table with credits and an empty column for why, beside this file. It never shows
QaTa-COV19, whose images carry no licence of their own, nor what may not be changed or not be used commercially.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import sgmsnet
from sgmsnet.measurements import INFECTION
from sgmsnet.pipeline import Pipeline
from sgmsnet.training.data import DatasetError, Sample, data_root
from sgmsnet.training.evaluate import evaluate, samples_of, truths_of
from sgmsnet.training.report import draw_case
from sgmsnet.training.results import Row

FOLDER = Path(__file__).resolve().parent
SETS = ("lungs", "infection", "healthy")
CASES = 10
COLUMNS, SIDE, STRIP = 5, 270, 22
MOST_BYTES = 250_000
CREDITS = {
    "ped": "Kermany, Zhang, Goldbaum, doi:10.17632/rscbjbr9sj.2",
    "nih": "NIH Clinical Center; Wang et al., ChestX-ray8, CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC",
    "10.6084/m9.figshare.12275009": "Winther et al., COVID-19 Image Repository, Hannover Medical School",
}
"""By collection or DOI; of all others the DOI and the address of the original stand for their authors."""


@dataclass(frozen=True)
class Case:
    """An image that is shown for one class, and the figure that makes it one of the worst."""

    row: Row
    label: str
    figure: str


def may_be_shown(listed: Mapping[str, str]) -> bool:
    """Whether a line of sources.csv lets everybody pass on a changed image: CC BY, CC0, or NIH's lack of terms."""
    licence = listed["licence"].strip()
    if listed["source"] == "nih":
        return licence.startswith("no restriction on use")
    return listed["source"] in ("gb", "v7", "ped") and bool(re.fullmatch(r"CC BY( \d\.\d)?|CC0( \d\.\d)?", licence))


def showable(root: Path) -> tuple[list[Sample], dict[str, dict[str, str]]]:
    """The validation images that may be shown, and their lines of sources.csv by stem; raises DatasetError."""
    listed: dict[str, dict[str, str]] = {}
    for table in (root / "sources.csv", root / "healthy" / "sources.csv"):
        try:
            with table.open(newline="", encoding="utf-8") as file:
                listed |= {row["stem"]: row for row in csv.DictReader(file) if may_be_shown(row)}
        except OSError as error:
            raise DatasetError(f"{table} could not be read: {error.strerror or error}") from None
    samples = [sample for name in SETS for sample in samples_of(root / name, split="val")]
    return [sample for sample in samples if sample.image.stem in listed], listed


def worst_cases(rows: Sequence[Row], most: int) -> list[Case]:
    """Half of them healthy chests with the largest infected share, as far as it is not 0, the others by Dice.

    Nobody is shown twice.
    """
    healthy = [row for row in rows if row.sample.empty and row.infected_share]
    healthy.sort(key=lambda row: row.infected_share or 0.0, reverse=True)
    outlined = [(name, row) for row in rows for name in row.counts if name not in row.sample.empty]
    outlined.sort(key=lambda pair: float(pair[1].counts[pair[0]].dice[0]))
    ranked = [Case(row, INFECTION, f"{100 * (row.infected_share or 0):.1f} % infected") for row in healthy]
    first = _different_people(ranked, set())[: most // 2]
    people = {case.row.sample.group for case in first}
    others = [Case(row, name, f"{name}, Dice {100 * float(row.counts[name].dice[0]):.1f} %") for name, row in outlined]
    return first + _different_people(others, people)[: most - len(first)]


def _different_people(cases: Sequence[Case], taken: set[str]) -> list[Case]:
    found = []
    for case in cases:
        if case.row.sample.group not in taken:
            taken.add(case.row.sample.group)
            found.append(case)
    return found


def make(pipeline: Pipeline, folder: Path, *, cases: int = CASES) -> list[Case]:
    """Write gallery.jpg and gallery.md into a folder; raises DatasetError."""
    samples, listed = showable(data_root())
    if not samples:
        raise DatasetError(f"{data_root()}: no validation image may be shown")
    found = evaluate(pipeline, samples, distances=False)
    if found.failures:
        raise DatasetError(found.failures[0].sentence)
    chosen = worst_cases(found.rows, cases)
    folder.mkdir(parents=True, exist_ok=True)
    tiles = [_tile(number, case, pipeline) for number, case in enumerate(chosen, start=1)]
    (folder / "gallery.jpg").write_bytes(_jpeg(_sheet(tiles)))
    page = folder / "gallery.md"
    text = markdown(
        chosen,
        listed,
        images=len(samples),
        model=f"{pipeline.info.model} {pipeline.info.model_sha256[:12]}",
        why=sentences(page.read_text(encoding="utf-8")) if page.is_file() else {},
    )
    page.write_text(text, encoding="utf-8")
    return chosen


def sentences(page: str) -> dict[tuple[str, str], str]:
    """The last column of an earlier page, a person's, by image and figure: a new figure needs a new look."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in page.splitlines()]
    return {(cells[1].strip("`"), cells[2]): cells[-1] for cells in lines if len(cells) == 6 and cells[0].isdecimal()}


def markdown(
    cases: Sequence[Case],
    listed: Mapping[str, Mapping[str, str]],
    *,
    images: int,
    model: str,
    why: Mapping[tuple[str, str], str],
) -> str:
    """The picture and a table of its cases; the last column is for a person's sentence, kept where nothing changed."""
    lines = [
        f"![The {len(cases)} cases of the table, with outlines](gallery.jpg)",
        "",
        f"The worst of the {images} validation images that may be passed on, by {model} (`python -m docs.gallery`): "
        "healthy chests by infected share, others by Dice, one of each person. Truth in reddish purple, what was found "
        "in light blue (lungs) and orange (infection). The images were made smaller and outlines drawn in. Outlines of "
        "lungs: V7 and General Blockchain, CC BY 4.0.",
        "",
        "| | image | figure | finding | credit and licence | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, case in enumerate(cases, start=1):
        stem = case.row.sample.image.stem
        about = listed[stem]
        licence = f"{credit(about)}; {about['licence']}"
        sentence = why.get((stem, case.figure), "")
        lines.append(f"| {number} | `{stem}` | {case.figure} | {about['finding']} | {licence} | {sentence} |")
    return "\n".join(lines) + "\n"


def credit(listed: Mapping[str, str]) -> str:
    """Whom a line of sources.csv asks to be named, with the way to the original."""
    known = CREDITS.get(listed["source"])
    if known is not None:
        return known
    doi, url = listed["doi"].strip(), listed["url"].strip()
    texts = (CREDITS.get(doi, ""), f"doi:{doi}" if doi else "", f"[{listed['original']}]({url})")
    return ", ".join(filter(None, texts))


def _tile(number: int, case: Case, pipeline: Pipeline) -> Image.Image:
    """SIDE wide, a strip with number and figure under the X-ray with its outlines."""
    prediction = pipeline.predict(case.row.sample.image)
    truth = None if case.label in case.row.sample.empty else truths_of(case.row.sample, prediction)[case.label]
    drawn = Image.fromarray(draw_case(prediction, truth, case.label))
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (SIDE, SIDE + STRIP), "white")
    tile.paste(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    ImageDraw.Draw(tile).text((4, SIDE + 3), f"{number}  {case.figure}", "black", ImageFont.load_default(14))
    return tile


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    rows = -(-len(tiles) // COLUMNS)
    gap = 6
    sheet = Image.new("RGB", (COLUMNS * (SIDE + gap) - gap, rows * (SIDE + STRIP + gap) - gap), "white")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, COLUMNS)
        sheet.paste(tile, (column * (SIDE + gap), row * (SIDE + STRIP + gap)))
    return sheet


def _jpeg(sheet: Image.Image) -> bytes:
    """The best quality that stays within MOST_BYTES."""
    for quality in (85, 75, 65, 50, 35):
        encoded = io.BytesIO()
        sheet.save(encoded, "JPEG", quality=quality, optimize=True)
        if encoded.tell() <= MOST_BYTES:
            break
    return encoded.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the gallery; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs.gallery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="cxr", help="name of a shipped model or a .safetensors file")
    parser.add_argument("--engine", default="auto", help="runtime; default: the best of this machine")
    parser.add_argument("--cases", type=int, default=CASES, metavar="N", help=f"how many are shown (default: {CASES})")
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR", help="default: beside this file")
    args = parser.parse_args(arguments)
    try:
        cases = make(sgmsnet.load(args.model, engine=args.engine), args.output, cases=args.cases)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for number, case in enumerate(cases, start=1):
        print(f"{number} {case.row.image}: {case.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
