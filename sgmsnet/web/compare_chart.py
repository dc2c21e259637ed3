"""Draws a comparison of engines as HTML: bars from zero, a table, and the engines that are missing. No events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

from sgmsnet.web.compare import REFERENCE, Comparison, Timed
from sgmsnet.web.desk import Availability

_NONE = "–"


def render(comparison: Comparison, engines: Iterable[Availability]) -> str:
    """What is known so far, as a fragment of HTML; `engines` are all engines known here, available or not."""
    timed = sorted((one for one in comparison.timed if one.times_ms), key=lambda one: one.p50_ms)
    missing = {one.name: one.reason for one in engines if not one.available} | dict(comparison.failed)
    parts = [_progress(comparison)]
    if timed:
        parts += [_chart(timed), _table(comparison, timed)]
    elif comparison.doing is None:
        parts.append('<p class="sg-problem" role="alert">No engine could run this image.</p>')
    parts.append(_missing(missing))
    if comparison.doing is None and timed:
        parts.append(_how(comparison, timed))
    return f'<div class="sg-compare">{"".join(parts)}</div>'


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten that is at least `value`: the end of an axis from 0."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10, 20) if step * power >= value * (1 - 1e-9))


def _progress(comparison: Comparison) -> str:
    image = escape(comparison.image)
    if comparison.doing is None:
        return f'<p class="sg-caption">{image}, {_rounds(comparison.done)}</p>'
    return (
        f'<p class="sg-caption" role="status">{image}: {escape(comparison.doing)}</p>'
        f'<progress class="sg-progress" max="{comparison.rounds}" value="{comparison.done}"'
        f' aria-label="Rounds done"></progress>'
    )


def _chart(timed: list[Timed]) -> str:
    end = nice_ceiling(max(one.p95_ms for one in timed))
    rows = "".join(
        f'<div class="sg-bar-row"><span class="sg-bar-name">{escape(one.engine)} <small>{escape(one.precision)}</small>'
        f'</span><span class="sg-bar-track"><i style="width:{one.p50_ms / end:.2%}"></i>'
        f'<b style="left:{one.p95_ms / end:.2%}"></b></span></div>'
        for one in timed
    )
    spoken = ", ".join(f"{one.engine} {_ms(one.p50_ms)}" for one in timed)
    ticks = "".join(f'<span style="left:{part:.0%}">{end * part:g}</span>' for part in (0, 0.5, 1))
    return (
        f'<div class="sg-bars" role="img" aria-label="Median time of the network, 0 to {end:g} ms: {escape(spoken)}">'
        f'{rows}<div class="sg-bar-axis"><span></span><span class="sg-ticks">{ticks}</span></div>'
        f'<p class="sg-bar-key">Milliseconds. <i></i> p50 <b></b> p95</p></div>'
    )


def _table(comparison: Comparison, timed: list[Timed]) -> str:
    classes = list(dict.fromkeys(name for one in timed for name in one.agreement or {}))
    heads = ["Engine", "p50", "p95", "Speed-up", *(f"IoU {name}" for name in classes)]
    rows = "".join(_row(one, comparison.speedup(one), classes) for one in timed)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    caption = f"Speed-up and mask agreement (IoU) are against {REFERENCE}."
    return (
        f'<div class="sg-scroll" tabindex="0" role="region" aria-label="Engines compared"><table class="sg-table">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(one: Timed, speedup: float | None, classes: list[str]) -> str:
    faster = _NONE if speedup is None else f"{speedup:.2f} ×"
    shares = (_iou((one.agreement or {}).get(name)) for name in classes)
    cells = "".join(f"<td>{text}</td>" for text in (_ms(one.p50_ms), _ms(one.p95_ms), faster, *shares))
    return f'<tr><th scope="row" title="{escape(one.device)}">{escape(one.engine)}</th>{cells}</tr>'


def _missing(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(reason)}</td></tr>' for name, reason in reasons.items()
    )
    return f'<table class="sg-table sg-missing"><caption>Not run, and why</caption><tbody>{rows}</tbody></table>'


def _how(comparison: Comparison, timed: list[Timed]) -> str:
    without = (
        "" if any(one.engine == REFERENCE for one in timed) else f" {REFERENCE} did not run, so nothing is compared."
    )
    return (
        f'<p class="sg-note">The network alone, {_rounds(comparison.done)} in turning order, warm-up left out.'
        f" Other visitors' images share the machine.{without}</p>"
    )


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _iou(value: float | None) -> str:
    # Rounded down: masks that differ by one pixel must not read as equal.
    return _NONE if value is None else f"{math.floor(value * 10000) / 10000:.4f}"
