"""Train and measure the rows of a comparison, one after the other; what is done stays done.

A comparison's folder holds ROW/seed-N (a training run, and what it scored on each part), costs.json, and the tables.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from engines.base import EngineError, EngineInfo, check_images
from sgmsnet.config import ConfigError
from sgmsnet.pipeline import Pipeline
from sgmsnet.training import cost
from sgmsnet.training.baselines import build_network
from sgmsnet.training.board import Score, write_board
from sgmsnet.training.cost import Cost
from sgmsnet.training.data import DatasetError, Sample
from sgmsnet.training.evaluate import evaluate
from sgmsnet.training.metrics import Counts
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.results import Row
from sgmsnet.training.run import ABOUT, load_trained, precisions_of, train
from sgmsnet.training.scoreboard import Comparison, Part
from sgmsnet.training.surface import SurfaceDistance

RESULT = "result.json"
"""Written last: a row with it is finished."""
COSTS = "costs.json"
COLUMNS = ("image", "group", "tp", "fp", "fn", "tn", "hd95", "nsd", "unit")
Say = Callable[[str], None]


@dataclass
class NetworkEngine:
    """Any network that takes grey levels and gives logits, as an engine: PyTorch, FP32, on the CPU or a GPU."""

    network: torch.nn.Module
    info: EngineInfo
    device: torch.device

    @classmethod
    def of(cls, network: torch.nn.Module, recipe: Recipe) -> NetworkEngine:
        """A trained network, with the input size and classes of its recipe."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # of networks in the next rows too, which FP32 is asked of as well
        info = EngineInfo(
            backend="pytorch",
            precision="fp32",
            device=torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU",
            height=recipe.model.height,
            width=recipe.model.width,
            classes=recipe.model.classes,
            outputs=("logits",),
            model=recipe.name,
            model_sha256="",
            runtime_version=torch.__version__,
            load_ms=0.0,
        )
        return cls(network.eval().to(device), info, device)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        try:
            with torch.inference_mode():
                logits = self.network(torch.from_numpy(images.copy()).to(self.device))["logits"]
        except RuntimeError as error:
            raise EngineError(f"pytorch failed: {error}") from error
        return {"logits": logits.float().cpu().numpy()}

    def close(self) -> None:
        """Nothing to free: the network belongs to the caller."""


def compare(
    comparison: Comparison, *, folder: Path, rows: Sequence[str] = (), measure_again: bool = False, say: Say = print
) -> None:
    """Train and measure what is missing of every row and seed, and write the tables anew after each.

    rows: train these alone; the tables hold every row that is finished. measure_again: take parameters, arithmetic
    and latency again, for all rows. Raises ConfigError, also for a folder that holds runs of another recipe, and
    DatasetError.
    """
    chosen = comparison.chosen(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for part in comparison.parts:
        part.samples()  # a missing data set now, not after hours of training
    for seed in comparison.seeds:
        for row in chosen:
            run = folder / row.name / f"seed-{seed}"
            recipe = comparison.recipe_of(row, seed)
            _check_recipe(run, recipe)
            if (run / RESULT).is_file():
                continue
            say(f"{row.name}, seed {seed}")
            _train(recipe, run)
            _measure(comparison.parts_of(row), recipe, run)
            write_tables(comparison, folder=folder, measure_again=measure_again)
            measure_again = False
    write_tables(comparison, folder=folder, measure_again=measure_again)


def write_tables(comparison: Comparison, *, folder: Path, measure_again: bool = False) -> None:
    """Write the tables and plots of the rows that are finished; nothing where none is."""
    scores = read_scores(comparison, folder=folder)
    if scores:
        facts = _costs(comparison, folder, again=measure_again)
        write_board(comparison, scores, facts["rows"], facts["conditions"], folder=folder)


def publish(comparison: Comparison, *, folder: Path, to: Path) -> None:
    """Copy what the tables are made from into `to`, of finished runs and without checkpoints, and write the tables.

    What lies there of other runs stays. A copy of `to` is a folder that `compare` goes on in: what is finished is not
    trained again, and the tables follow without a training run.
    """
    read_scores(comparison, folder=folder)
    for row in comparison.rows:
        for seed in comparison.seeds:
            run = Path(row.name) / f"seed-{seed}"
            if (folder / run / RESULT).is_file():
                (to / run).mkdir(parents=True, exist_ok=True)
                kept = ("recipe.yaml", ABOUT, *(f"{part.name}.csv" for part in comparison.parts_of(row)), RESULT)
                for name in kept:
                    shutil.copyfile(folder / run / name, to / run / name)
    if (folder / COSTS).is_file() and to.is_dir():
        shutil.copyfile(folder / COSTS, to / COSTS)
    write_tables(comparison, folder=to)


def read_scores(comparison: Comparison, *, folder: Path) -> list[Score]:
    """What the finished rows and seeds scored, in the comparison's order.

    Raises ConfigError for a run that was not measured on one of the parts.
    """
    scores = []
    for row in comparison.rows:
        for seed in comparison.seeds:
            run = folder / row.name / f"seed-{seed}"
            if (run / RESULT).is_file():
                result = json.loads((run / RESULT).read_text(encoding="utf-8"))
                for part in comparison.parts_of(row):
                    if part.name not in result["calibration_error"]:
                        raise ConfigError(
                            f"{run} was not measured on {part.name}: delete its {RESULT}, and it is measured again"
                        )
                scores += [
                    Score(
                        row=row,
                        part=part,
                        seed=seed,
                        images=tuple(read_images(run / f"{part.name}.csv", label=part.label)),
                        calibration_error=result["calibration_error"][part.name],
                        seconds_per_step=result["seconds_per_step"],
                        steps=result["steps"],
                        precisions=tuple(precisions_of(run)),
                    )
                    for part in comparison.parts_of(row)
                ]
    return scores


def _check_recipe(run: Path, recipe: Recipe) -> None:
    if (run / "recipe.yaml").is_file():
        stored = Recipe.from_dict(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
        if stored != recipe:
            raise ConfigError(f"{run} holds a run of another recipe; name another folder with --output")


def _train(recipe: Recipe, run: Path) -> None:
    if (run / "checkpoints" / "last.ckpt").is_file():
        train(recipe, resume=run)
    else:
        shutil.rmtree(run, ignore_errors=True)  # stopped in its first epoch: nothing in it is worth keeping
        train(recipe, folder=run)


def _measure(parts: Sequence[Part], recipe: Recipe, run: Path) -> None:
    trained = load_trained(run, recipe)
    pipeline = Pipeline(NetworkEngine.of(trained.network, recipe), thresholds={}, temperature={})
    errors: dict[str, float] = {}
    for part in parts:
        found = evaluate(pipeline, part.samples())
        if found.failures:
            raise DatasetError(found.failures[0].sentence)
        write_images(run / f"{part.name}.csv", found.rows, label=part.label)
        errors[part.name] = found.reliability[part.label].error
    result = {
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seconds_per_step": trained.seconds / trained.steps if trained.seconds else None,
        "calibration_error": errors,
    }
    _write(run / RESULT, json.dumps(result, indent=1))


def write_images(path: Path, rows: Sequence[Row], *, label: str) -> None:
    """One line an image: pixels counted for the class, and distances of the outlines."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in rows:
            counts = {name: int(getattr(row.counts[label], name)[0]) for name in ("tp", "fp", "fn", "tn")}
            surface = asdict(row.surfaces[label])
            surface |= {name: round(surface[name], 4) for name in ("hd95", "nsd")}  # these files are published
            table.writerow({"image": row.image, "group": row.sample.group, **counts, **surface})


def read_images(path: Path, *, label: str) -> list[Row]:
    """The rows that `write_images` wrote."""
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            counts = Counts(*(np.array([int(line[name])]) for name in ("tp", "fp", "fn", "tn")))
            unit: Any = line["unit"]
            surface = SurfaceDistance(hd95=float(line["hd95"]), nsd=float(line["nsd"]), unit=unit)
            sample = Sample(image=Path(line["image"]), masks={}, empty=frozenset(), group=line["group"])
            rows.append(Row(sample, {label: counts}, {label: surface}, None))
    return rows


def _costs(comparison: Comparison, folder: Path, *, again: bool) -> dict[str, Any]:
    """{"rows": Cost by row, "conditions"}, from costs.json; all rows are measured together, so that they compare."""
    path = folder / COSTS
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not again else {"rows": {}}
    recipes = {row.name: comparison.recipe_of(row, comparison.seeds[0]) for row in comparison.rows}
    size = max(recipe.model.height for recipe in recipes.values())
    if not set(recipes) <= set(stored["rows"]) or stored["conditions"]["size"] != size:
        around = cost.conditions(size=size)
        measured = cost.measure({name: build_network(recipe) for name, recipe in recipes.items()}, size=size)
        stored = {"conditions": around, "rows": {name: one.record() for name, one in measured.items()}}
        _write(path, json.dumps(stored, indent=1))
    return {"conditions": stored["conditions"], "rows": {name: Cost(**one) for name, one in stored["rows"].items()}}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
