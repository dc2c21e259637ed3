"""An evaluation as one self-contained HTML page: figures, curves, and the best, median and worst cases.

The page embeds the images it shows: it is written only where the user asks, and must not be passed on where they
may not be.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from sgmsnet import overlay
from sgmsnet.measurements import INFECTION
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction, logit_cut
from sgmsnet.training.bootstrap import RESAMPLES
from sgmsnet.training.evaluate import truths_of
from sgmsnet.training.results import Evaluation, Row
from sgmsnet.training.sweep import EDGES
from sgmsnet.training.tables import NOTE, counted, figures, healthy_lines, source_lines

CASES = 4
"""Of each kind: best, median and worst."""
LONGEST_SIDE = 384
TRUTH = (204, 121, 167)
"""Reddish purple of Okabe and Ito: apart from the colours of the classes with every common colour blindness."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } th, td { padding: .15em 1em .15em 0; text-align: left; font-weight: normal }
td { font-variant-numeric: tabular-nums; text-align: right } figure { display: inline-block; margin: 0 .8em .8em 0 }
figcaption { font-size: 13px; overflow-wrap: anywhere; max-width: 270px } figure img { width: 270px; display: block }
.fact { text-align: left } .curves { width: 100%; max-width: 1080px } .key { font-weight: bold }
"""

_RULES = (
    f"For research only. Intervals are 95 %, from {RESAMPLES} draws of groups: patients where they are known, images "
    "elsewhere. A metric without pixels to judge by is 1; HD95 of an outline that is missing is the image's diagonal. "
    + NOTE
)


def page(evaluation: Evaluation, pipeline: Pipeline, facts: Mapping[str, Any]) -> str:
    """The HTML text; the cases are predicted once more, by the pipeline that gave the evaluation.

    facts: name -> what the page states of the data set, model and engine. Raises DatasetError or
    UnreadableImageError for an image or mask that has gone meanwhile, EngineError where the engine fails.
    """
    summary = evaluation.summary()
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td class="fact">{escape(_text(value))}</td></tr>' for name, value in facts.items()
    )
    parts = [f"<table>{rows}</table>"]
    parts += [_section(name, record, evaluation, pipeline) for name, record in summary["classes"].items()]
    if lines := healthy_lines(summary):
        parts.append("<h2>Healthy chests</h2>" + "".join(f"<p>{escape(line)}</p>" for line in lines))
        parts.append(_healthy_cases(evaluation, pipeline))
    if evaluation.failures:
        items = "".join(f"<li>{escape(failure.sentence)}</li>" for failure in evaluation.failures)
        parts.append(f"<h2>Not read</h2><ul>{items}</ul>")
    title = f"Evaluation of {escape(str(pipeline.info.model))}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<p>{_RULES}</p>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _section(name: str, record: dict[str, Any], evaluation: Evaluation, pipeline: Pipeline) -> str:
    """One class: figures, curves and cases."""
    rows = "".join(
        f"<tr><th>{label}</th><td>{value}</td><td>{ends}</td></tr>" for label, value, ends in figures(record)
    )
    sources = "".join(f"<p>{escape(line)}</p>" for line in source_lines(record))
    return (
        f"<h2>{escape(name)}: {counted(record)}</h2>"
        f"<table><tr><th></th><td></td><td>95 % interval</td></tr>{rows}</table>{sources}"
        f'<img class="curves" alt="Precision and recall, calibration, and Dice of the images" '
        f'src="{_curves(name, evaluation, pipeline)}">'
        f'<p>Outlines: {_key(name, pipeline)}, <span class="key" style="color:rgb{TRUTH}">true</span>.</p>'
        + _cases(name, evaluation, pipeline)
    )


def _key(name: str, pipeline: Pipeline, word: str = "found") -> str:
    """A word in the colour of what is found of a class."""
    colour = overlay.colour_of(name, pipeline.info.classes.index(name))
    return f'<span class="key" style="color:rgb{colour}">{word}</span>'


def _cases(name: str, evaluation: Evaluation, pipeline: Pipeline) -> str:
    ranked = sorted(evaluation.outlined(name), key=lambda row: float(row.counts[name].dice[0]))
    middle = max(len(ranked) - CASES, 0) // 2
    kinds = {
        "Worst": ranked[:CASES],
        "Median": ranked[middle : middle + CASES],
        "Best": ranked[-CASES:][::-1],
    }
    return "".join(
        f"<h3>{kind}</h3>" + "".join(_case(name, row, pipeline) for row in rows) for kind, rows in kinds.items()
    )


def _healthy_cases(evaluation: Evaluation, pipeline: Pipeline) -> str:
    """The healthy chests with the largest infected share; first those without lungs, whose share nobody knows."""
    ranked = sorted(evaluation.healthy(), key=lambda row: -1 if row.infected_share is None else 1 - row.infected_share)
    figures = []
    for row in ranked[:CASES]:
        prediction = pipeline.predict(row.sample.image)
        share = "no lung found" if row.infected_share is None else f"{100 * row.infected_share:.1f} % infected"
        figures.append(_figure(draw_case(prediction, None, INFECTION), f"{row.image}: {share}"))
    key = _key(INFECTION, pipeline, "infection that was found")
    return f"<h3>Worst</h3><p>Outlines: {key}.</p>" + "".join(figures)


def _case(name: str, row: Row, pipeline: Pipeline) -> str:
    prediction = pipeline.predict(row.sample.image)
    picture = draw_case(prediction, truths_of(row.sample, prediction)[name], name)
    text = f"{row.image}: Dice {100 * float(row.counts[name].dice[0]):.1f} %"
    if surface := row.surfaces.get(name):
        text += f", HD95 {surface.hd95:.1f} {surface.unit}"
    return _figure(picture, text)


def _figure(picture: np.ndarray, text: str) -> str:
    encoded = BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=85)
    return (
        f'<figure><img alt="{escape(text)}" src="{_data_uri("image/jpeg", encoded.getvalue())}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def draw_case(prediction: Prediction, truth: np.ndarray | None, name: str) -> np.ndarray:
    """uint8 (h, w, 3), at most LONGEST_SIDE long: the X-ray with the outlines of the class, true above found.

    Without truth only what was found is drawn, as of what is empty by definition.
    """
    grey = Image.fromarray(prediction.radiograph.display)
    scale = min(LONGEST_SIDE / max(grey.size), 1.0)
    size = (max(round(grey.width * scale), 1), max(round(grey.height * scale), 1))
    canvas = np.repeat(np.array(grey.resize(size, Image.Resampling.BOX))[..., None], 3, axis=2)
    found = overlay.colour_of(name, prediction.classes.index(name))
    outlines = [(prediction.masks[name], found)] + ([] if truth is None else [(truth, TRUTH)])
    for mask, colour in outlines:
        small = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        canvas[overlay.outline(np.array(small), thickness=2)] = colour
    return canvas


def _curves(name: str, evaluation: Evaluation, pipeline: Pipeline) -> str:
    """Precision and recall of pixels, calibration, and Dice of the images, as the address of an SVG."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    precision, recall = evaluation.histograms[name].precision_recall()
    threshold, temperature = pipeline.thresholds[name], pipeline.temperature[name]
    at = int(np.abs(EDGES - logit_cut(threshold, temperature)).argmin())
    shown = np.flatnonzero(np.diff(recall, prepend=2.0))  # cuts between which nothing changes say nothing new
    left.plot(recall[shown], precision[shown])
    left.plot(recall[at], precision[at], "o", label=f"threshold {threshold:g}")
    left.set(xlabel="recall of pixels", ylabel="precision of pixels", xlim=(0, 1.02), ylim=(0, 1.02))
    left.legend(loc="lower left")
    reliability = evaluation.reliability[name]
    middle.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    middle.plot(*reliability.curve(), marker="o", markersize=3)
    middle.set(
        xlabel="probability",
        ylabel=f"part of pixels that are {name}",
        title=f"error {reliability.error:.4f}, all pixels",
    )
    dice = [float(row.counts[name].dice[0]) for row in evaluation.outlined(name)]
    right.hist(dice, bins=np.linspace(0, 1, 21).tolist())
    right.set(xlabel="Dice of an image", ylabel="images", xlim=(0, 1))
    return _data_uri("image/svg+xml", _svg(figure))


def _text(value: Any) -> str:
    """A fact as a person reads it: values by class in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:.4g}" for name, number in value.items())
    return str(value)


def _svg(figure: Figure) -> bytes:
    text = StringIO()
    # Without a date and with fixed names of its parts, so that the same evaluation gives the same page.
    with mpl.rc_context({"svg.hashsalt": "sgmsnet"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().encode()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
