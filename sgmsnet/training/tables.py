"""The figures of an evaluation as text: one place for their names, units and digits. Computes nothing."""

from __future__ import annotations

from typing import Any

# Key of the summary, label, factor, decimals.
_FIGURES = (
    ("dice_per_image", "Dice per image, %", 100, 2),
    ("dice_per_image_filled", "  without empty truths", 100, 2),
    ("iou_per_image", "IoU per image, %", 100, 2),
    ("dice_pooled", "Dice pooled, %", 100, 2),
    ("iou_pooled", "IoU pooled, %", 100, 2),
    ("dice_worst_5_percent", "Dice of the worst 5 % of images, %", 100, 2),
    ("sensitivity", "sensitivity pooled, %", 100, 2),
    ("specificity", "specificity pooled, %", 100, 2),
    ("precision", "precision pooled, %", 100, 2),
    ("hd95_px", "HD95, pixels", 1, 2),
    ("nsd_2_px", "NSD at 2 pixels, %", 100, 2),
    ("hd95_mm", "HD95, mm", 1, 2),
    ("nsd_2_mm", "NSD at 2 mm, %", 100, 2),
    ("calibration_error", "calibration error, all pixels, %", 100, 2),
    ("calibration_error_claimed", "  of pixels above 1 %", 100, 2),
)
NOTE = (
    "Distances in pixels are in those of each image's own size. The calibration error over all pixels is diluted by "
    "background; the other is over pixels whose probability is above 1 %. Two empty masks have a Dice of 1; where one "
    "of two is empty, HD95 is the image's diagonal and NSD 0."
)


def figures(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Label, value and 95 % interval of everything that a class's summary holds; "" for no interval."""
    rows = []
    for key, label, factor, decimals in _FIGURES:
        if record.get(key) is not None:
            interval = record["intervals"].get(key)
            rows.append(
                (
                    label,
                    f"{factor * record[key]:.{decimals}f}",
                    " to ".join(f"{factor * end:.{decimals}f}" for end in interval) if interval else "",
                )
            )
    return rows


def counted(record: dict[str, Any]) -> str:
    """How much stands behind a class's figures: the interval draws groups, which are patients where these are known."""
    text = f"{record['images']} images in {record['groups']} groups"
    return f"{text}, {record['empty_truths']} with an empty truth" if record.get("empty_truths") else text


def table(summary: dict[str, Any]) -> str:
    """The summary of an evaluation as lines of text, both families of Dice and IoU, with 95 % intervals."""
    blocks = []
    for name, record in summary["classes"].items():
        heading = f"{name}: {counted(record)}"
        lines = [f"{heading:<46}   95 % interval"]
        lines += [f"  {label:<36}{value:>8}   {interval}".rstrip() for label, value, interval in figures(record)]
        lines += [f"  {line}" for line in source_lines(record)]
        blocks.append("\n".join(lines))
    if blocks:
        blocks.append(NOTE)
    if lines := healthy_lines(summary):
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def source_lines(record: dict[str, Any]) -> list[str]:
    """One line on each source of a class's images, where there is more than one."""
    lines = []
    for source, part in record.get("sources", {}).items():
        texts = [
            f"{label.removesuffix(', %')} {value} %" + (f" ({interval})" if interval else "")
            for label, value, interval in figures(part)
            if label in ("Dice per image, %", "Dice pooled, %")
        ]
        lines.append(f"of {source}: {counted(part)}, {', '.join(texts)}")
    return lines


def healthy_lines(summary: dict[str, Any]) -> list[str]:
    """One line on all healthy chests, then on adults and children, and on sources, where these are known."""
    healthy = summary.get("healthy")
    if not healthy:
        return []
    parts = [("healthy chests", healthy)]
    parts += [(f"  of {part}", healthy[part]) for part in ("adults", "children") if part in healthy]
    parts += [(f"  of {source}", record) for source, record in healthy.get("sources", {}).items()]
    return [f"{label}: {_healthy(record)}" for label, record in parts]


def _healthy(record: dict[str, Any]) -> str:
    text = (
        f"{record['images']}, median infected share {100 * record['infected_share_median']:.2f} %, "
        f"above 2 %: {100 * record['part_above_2_percent']:.1f} % of images"
    )
    if interval := record["intervals"]["part_above_2_percent"]:
        text += f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    if record["without_lungs"]:
        text += f"; no lung found in {record['without_lungs']}, counted as above 2 % and in the median as 100 %"
    return text


def sweep_table(name: str, record: dict[str, Any]) -> str:
    """One class's Dice by threshold as lines of text, with the temperature that they belong to."""
    if record["temperature"] is None:
        lines = [f"{name}: no temperature, which takes pixels of both kinds; thresholds are for temperature 1"]
    else:
        lines = [
            f"{name}: temperature {record['temperature']:.4f}, negative log likelihood "
            f"{record['nll_at_temperature_1']:.5f} at temperature 1, {record['nll']:.5f} at this one"
        ]
    if record["images"]:
        lines.append(f"{'threshold':>10}{'Dice per image':>16}{'Dice pooled':>13}   ({record['images']} images)")
    for row in record["thresholds"]:
        best = "   best" if row["threshold"] == record["best_threshold"] else ""
        dice = f"{100 * row['dice_per_image']:>16.2f}{100 * row['dice_pooled']:>13.2f}"
        lines.append(f"{row['threshold']:>10.2f}{dice}{best}")
    return "\n".join(lines)
