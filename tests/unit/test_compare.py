"""The scoreboard: a whole comparison of tiny networks from scratch, what it leaves behind, and what it goes on from."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sgmsnet.cli import main
from sgmsnet.config import ConfigError
from sgmsnet.training import compare as comparing
from sgmsnet.training.compare import compare, read_images, write_tables
from sgmsnet.training.metrics import Counts
from sgmsnet.training.recipe import Recipe, load_recipe
from sgmsnet.training.scoreboard import SCOREBOARDS, leave_one_source_out, load_comparison

TINY = {"encoder_layers": [1, 1, 1, 1], "encoder_widths": [8, 8, 16, 16], "decoder_widths": [8, 8, 8, 8]}
ROWS = ("small", "plain", "unet")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images to train and six, of three patients, to validate: a bright rectangle in noise, and its mask."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    names = {"train": [str(i) for i in range(4)], "val": [f"sub-s{i // 2:02}_{i}" for i in range(6)]}
    for part, stems in names.items():
        for stem in stems:
            top, left = rng.integers(2, 16, 2)
            mask = np.zeros((32, 32), bool)
            mask[top : top + 13, left : left + 12] = True
            image = np.clip(60 + 120 * mask + rng.normal(0, 6, mask.shape), 0, 255).astype(np.uint8)
            for folder, pixels in (("images", image), ("masks", mask * np.uint8(255))):
                (root / part / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / part / folder / f"{stem}.png")
    return root


@pytest.fixture(scope="module")
def tiny(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison file: three rows, two seeds, two epochs of two steps each."""
    source = {"path": str(drawn), "masks": {"lungs": "masks"}}
    values = {
        "name": "tiny",
        "title": "Tiny networks",
        "reference": "small",
        "seeds": [1, 2],
        "rows": [
            {"name": "small", "title": "SGMSNet, small", "recipe": {"model": {"base": "cxr"}}},
            {"name": "plain", "title": "without the modules", "recipe": {"model": {"base": "plain"}}},
            {"name": "unet", "title": "U-Net", "recipe": {"network": "unet", "network_width": 4}},
        ],
        "parts": [{"name": "drawn", "label": "lungs", "source": source}],
        "recipe": {
            "model": {"classes": ["lungs"], **TINY},
            "sources": [source],
            "phases": [{"size": 32, "epochs": 2}],
            "batch_size": 4,
            "samples_per_epoch": 8,
            "workers": 0,
            "precision": "32-true",
            "ema_decay": 0.5,
        },
    }
    path = tmp_path_factory.mktemp("comparison") / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole comparison, made by the command, in two goes: the second finds two rows finished."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    trained: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparing, "train", _counting(comparing.train, trained))
        assert main(["compare", str(tiny), "--output", str(folder), "--rows", "small,unet"]) == 0
        assert trained == ["small 1", "unet 1", "small 2", "unet 2"]
        assert main(["compare", str(tiny), "--output", str(folder)]) == 0
        assert trained[4:] == ["plain 1", "plain 2"]
    return folder


def _counting(train: Any, trained: list[str]) -> Any:
    def counted(recipe: Recipe, **options: Any) -> Path:
        trained.append(f"{recipe.name} {recipe.seed}")
        return train(recipe, **options)

    return counted


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scoreboard.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_comparison_from_scratch_leaves_table_plots_and_tests(finished: Path) -> None:
    rows = table_of(finished)
    assert [row["row"] for row in rows] == list(ROWS)
    for row in rows:
        assert row["seeds"] == "1 2"
        assert (row["images"], row["groups"]) == ("6", "3")
        low, mean, high = (float(row[f"dice_per_image{end}"]) for end in ("_low", "", "_high"))
        assert low - 1e-9 <= mean <= high + 1e-9
        for name in ("dice_pooled", "iou_pooled", "iou_per_image", "hd95_px", "calibration_error"):
            assert np.isfinite(float(row[name]))
        for name in ("parameters", "gflop", "latency_ms", "seconds_per_step"):
            assert float(row[name]) > 0
    assert [bool(row["p"]) for row in rows] == [False, True, True], "the reference is not tested against itself"
    text = (finished / "scoreboard.md").read_text(encoding="utf-8")
    for words in ("Tiny networks", "without the modules", "6 images in 3 groups", "Dice pooled", "GFLOP", "PyTorch"):
        assert words in text
    results = [json.loads((finished / row / f"seed-{s}" / "result.json").read_text()) for row in ROWS for s in (1, 2)]
    hours = sum(result["seconds_per_step"] * result["steps"] for result in results) / 3600
    assert f"Training: {hours:.2f} hours of steps in 6 of 6 runs." in text
    for name in ("dice.png", "cost.png"):
        with Image.open(finished / name) as plot:
            assert plot.width > 400


def test_the_table_holds_what_the_images_say(finished: Path) -> None:
    for row in table_of(finished):
        runs = [read_images(finished / row["row"] / f"seed-{seed}" / "drawn.csv", label="lungs") for seed in (1, 2)]
        counts = [Counts.join([image.counts["lungs"] for image in images]) for images in runs]
        both = Counts.join(counts)
        means = [2 * c.tp / np.maximum(2 * c.tp + c.fp + c.fn, 1) for c in counts]
        assert float(row["dice_per_image"]) == pytest.approx(float(np.mean(means)), abs=1e-5)
        pooled = 2 * both.tp.sum() / max((2 * both.tp + both.fp + both.fn).sum(), 1)
        assert float(row["dice_pooled"]) == pytest.approx(float(pooled), abs=1e-5)
        assert all(int(total) == 32 * 32 for c in counts for total in c.tp + c.fp + c.fn + c.tn)
    first, *others = table_of(finished)
    for row in others:
        difference = float(row["dice_per_image"]) - float(first["dice_per_image"])
        assert float(row["difference"]) == pytest.approx(difference, abs=1e-9)
        assert row["verdict"].startswith("no difference shown"), "three patients show nothing"


def test_every_row_trains_the_same_protocol(finished: Path) -> None:
    recipes = []
    for name in ROWS:
        values = yaml.safe_load((finished / name / "seed-1" / "recipe.yaml").read_text(encoding="utf-8"))
        assert values["model"]["height"] == 32
        recipes.append({k: v for k, v in values.items() if k not in ("name", "model", "network", "network_width")})
        result = json.loads((finished / name / "seed-1" / "result.json").read_text(encoding="utf-8"))
        assert (result["epochs"], result["steps"]) == (2, 4)
    assert recipes[0] == recipes[1] == recipes[2]


def test_a_row_that_was_stopped_goes_on_from_its_checkpoint(tiny: Path, finished: Path, tmp_path: Path) -> None:
    comparison = load_comparison(tiny, ["seeds=[1]", "recipe.phases.0.epochs=1"])
    compare(comparison, folder=tmp_path, rows=["unet"], say=lambda text: None)
    run = tmp_path / "unet" / "seed-1"
    before = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    (run / "result.json").unlink()  # as if it had been killed while it was measured
    compare(comparison, folder=tmp_path, rows=["unet"], say=lambda text: None)
    assert (run / "result.json").is_file()
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before, "no step was trained again"
    [row] = table_of(tmp_path)
    assert (row["row"], row["p"]) == ("unet", ""), "nothing to test against before the reference is finished"


def test_what_is_published_gives_the_same_tables_and_is_gone_on_from(
    tiny: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    assert main(["compare", str(tiny), "--output", str(finished), "--publish", str(shared)]) == 0
    for name in ("scoreboard.md", "scoreboard.csv"):
        assert (shared / name).read_bytes() == (finished / name).read_bytes()
    assert {path.name for path in (shared / "unet" / "seed-2").iterdir()} == {
        *("recipe.yaml", "about.json", "result.json", "drawn.csv")
    }
    shutil.rmtree(shared / "unet" / "seed-1")
    trained: list[str] = []
    monkeypatch.setattr(comparing, "train", _counting(comparing.train, trained))
    assert main(["compare", str(tiny), "--output", str(shared)]) == 0
    assert trained == ["unet 1"]


def test_the_table_says_what_each_row_was_trained_in(finished: Path, tiny: Path, tmp_path: Path) -> None:
    assert "trained in" in (finished / "scoreboard.md").read_text(encoding="utf-8")
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    about = copy / "unet" / "seed-2" / "about.json"
    told = json.loads(about.read_text(encoding="utf-8"))
    about.write_text(json.dumps({**told, "resumed": [{**told, "precision": "bf16-mixed"}]}), encoding="utf-8")
    write_tables(load_comparison(tiny), folder=copy)
    ends = {
        line.split(" | ")[0].strip("| "): line.rsplit(" | ", 1)[-1].strip("| ")
        for line in (copy / "scoreboard.md").read_text(encoding="utf-8").splitlines()
        if line.endswith(("FP32 |", "BF16 |"))
    }
    assert ends == {"SGMSNet, small": "FP32", "without the modules": "FP32", "U-Net": "FP32, BF16"}


def test_costs_of_another_size_are_measured_again(finished: Path, tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    costs = json.loads((copy / "costs.json").read_text(encoding="utf-8"))
    gflop = costs["rows"]["unet"]["gflop"]
    costs["rows"]["unet"]["gflop"] = 99.0
    (copy / "costs.json").write_text(json.dumps(costs), encoding="utf-8")
    write_tables(load_comparison(tiny), folder=copy)
    assert table_of(copy)[2]["gflop"] == "99.0", "what was measured at this size stays"
    costs["conditions"]["size"] = 64
    (copy / "costs.json").write_text(json.dumps(costs), encoding="utf-8")
    write_tables(load_comparison(tiny), folder=copy)
    assert float(table_of(copy)[2]["gflop"]) == gflop


@pytest.mark.slow
def test_every_row_of_the_shipped_scoreboards_is_trained_and_measured(tiny: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(tiny.read_text(encoding="utf-8"))
    values |= {"rows": str(SCOREBOARDS / "rows.yaml"), "reference": "shipped", "seeds": [1]}
    values["recipe"] |= {"phases": [{"size": 64, "epochs": 1}], "network_width": 8}
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["compare", str(path), "--output", str(tmp_path / "runs")]) == 0
    rows = table_of(tmp_path / "runs")
    assert [row["row"] for row in rows] == [row.name for row in load_comparison("scoreboard").rows]
    for row in rows:
        assert 0 <= float(row["dice_per_image"]) <= 1
        assert float(row["gflop"]) > 0
    assert [bool(row["p"]) for row in rows] == [False] + [True] * (len(rows) - 1)


def test_a_part_that_a_finished_row_was_not_measured_on_is_named(
    finished: Path, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(tiny.read_text(encoding="utf-8"))
    added = tiny.with_name("added.yaml")
    added.write_text(yaml.safe_dump({**values, "parts": [*values["parts"], {**values["parts"][0], "name": "more"}]}))
    for option in ("--tables", "--publish=shared"):
        assert main(["compare", str(added), "--output", str(finished), option]) == 2
        [line] = capfd.readouterr().err.strip().splitlines()
        assert "small/seed-1 was not measured on more" in line.replace("\\", "/")


def test_nothing_finished_is_nothing_to_publish(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shared = tmp_path / "shared"
    assert main(["compare", str(tiny), "--output", str(tmp_path / "runs"), "--publish", str(shared)]) == 2
    assert "holds no finished row" in capfd.readouterr().err
    assert not shared.exists()


def test_a_folder_of_another_protocol_is_refused(tiny: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tiny), "recipe.batch_size=2", "--output", str(finished)]) == 2
    assert "another recipe" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("reference=nobody", "nobody"),
        ("rows=[]", "rows"),
        ("seeds=[]", "seeds"),
        ("rows.0.leave_out=[nothing]", "nothing"),
        ("rows.2.recipe.network=vnet", "vnet"),
        ("rows.1.colour=red", "colour"),
        ("parts.0.colour=red", "colour"),
        ("parts.0.source=x", "SourceConfig"),
        ("parts.0.split=test", "train, val or all"),
        ("recipe.batchsize=2", "batchsize"),
    ],
)
def test_a_comparison_that_cannot_be_run_is_refused_before_it_begins(tiny: Path, change: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_comparison(tiny, [change])
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_row_is_refused_with_the_known_ones(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="small, plain, unet"):
        compare(load_comparison(tiny), folder=tmp_path, rows=["nothing"])


@pytest.mark.parametrize("name", ["scoreboard", "scoreboard-cpu"])
def test_the_shipped_scoreboards_hold_the_rows_that_the_claims_need(name: str) -> None:
    assert (SCOREBOARDS / f"{name}.yaml").is_file()
    comparison = load_comparison(name)
    recipes = {row.name: comparison.recipe_of(row, 1) for row in comparison.rows}
    assert list(recipes)[:5] == ["shipped", "unet", "dynunet", "plain", "paper"]
    assert {recipe.network for recipe in recipes.values()} == {
        "sgmsnet",
        "unet",
        "attention-unet",
        "unetplusplus",
        "dynunet",
    }
    shipped, paper, plain = (recipes[row].model for row in ("shipped", "paper", "plain"))
    assert shipped.scale_query
    assert not paper.scale_query
    assert (plain.memory_stages, plain.gates, plain.spatial_attention) == ((), False, False)
    changed = {
        "no-memory": {"memory_stages": ()},
        "no-gates": {"gates": False},
        "no-spatial": {"spatial_attention": False},
        "two-memories": {"memory_stages": (4, 5)},
        "stem-skip": {"stem_skip": True},
        "fine-stem": {"fine_stem": True},
        "deep-supervision": {"deep_supervision": True},
    }
    for row, changes in changed.items():
        assert recipes[row].model.to_dict() == {**shipped.to_dict(), **changes}, row
    assert len(comparison.seeds) == {"scoreboard": 3, "scoreboard-cpu": 2}[name]


def test_leaving_a_source_out_trains_on_the_others_and_measures_on_it() -> None:
    comparison = leave_one_source_out(load_recipe("lungs"), seeds=[4])
    assert [part.name for part in comparison.parts] == ["lungs-gb", "lungs-v7", "healthy-ped"]
    included = {
        row.name: [source.include for source in comparison.recipe_of(row, 4).sources] for row in comparison.rows
    }
    assert included == {
        "all": ["^gb_", "^v7_", "^ped_"],
        "without-lungs-gb": ["^v7_", "^ped_"],
        "without-lungs-v7": ["^gb_", "^ped_"],
        "without-healthy-ped": ["^gb_", "^v7_"],
        "without-all-lungs": ["^ped_"],  # both annotators outlined images of one collection
    }
    for row in comparison.rows[1:]:
        assert [part.name for part in comparison.parts_of(row)] == list(row.leave_out)
    assert len(comparison.parts_of(comparison.rows[0])) == 3
    with pytest.raises(ConfigError, match="two or more"):
        leave_one_source_out(load_recipe("qata-paper"))


def test_a_source_without_masks_of_the_class_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path))
    for number, source in enumerate(("lungs", "healthy")):
        for folder in ("images", "masks"):
            (tmp_path / source / "val" / folder).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / source / "val" / folder / f"c{number}.png")
    for name in ("old", "young"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "healthy" / "val" / "images" / f"{name}.png")
    (tmp_path / "healthy" / "sources.csv").write_text("stem,age\nold,60\nyoung,6\nc1,6\n", encoding="utf-8")
    comparison = leave_one_source_out(load_recipe("cxr"))  # of healthy grown-ups no lungs are outlined
    assert [part.name for part in comparison.parts] == ["lungs", "healthy-children"]
