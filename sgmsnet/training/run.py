"""A recipe -> a trained network in a run's folder, through Lightning; stopped runs go on from their last epoch."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engines.processor import multiplies_bf16
from sgmsnet import checkpoint
from sgmsnet.config import ConfigError
from sgmsnet.model import SGMSNet, load_encoder
from sgmsnet.training.baselines import build_network
from sgmsnet.training.callbacks import Clock, Curves, draw_curves
from sgmsnet.training.loaders import RecipeData
from sgmsnet.training.machine import Machine
from sgmsnet.training.module import SegmentationModule
from sgmsnet.training.recipe import Recipe

_log = logging.getLogger(__name__)

ABOUT = "about.json"
"""In a run's folder: what it was trained with, and what it was resumed with."""


def runs_root() -> Path:
    """The folder that SGMSNET_RUNS names; by default `sgmsnet-runs` in the home folder."""
    return Path(os.environ.get("SGMSNET_RUNS", Path.home() / "sgmsnet-runs"))


def train(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    resume: Path | None = None,
    init: str | Path | None = None,
    encoder: Path | None = None,
    machine: Machine | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train a recipe and return the run's folder, which then holds NAME.safetensors if the network is SGMSNet.

    resume: folder of a stopped run. init: weights to start from (a name or .safetensors). encoder: a torchvision
    resnet34 weights file. machine: the processes that share the work. say: is told what trains and how long. Raises
    ConfigError, DatasetError or WeightsError in one sentence.
    """
    machine = machine or Machine()
    machine.share(recipe.batch_size)
    if machine.processes > 1 and folder is None and resume is None:
        raise ConfigError("several processes need --run DIR (or --resume DIR): a folder that all of them write to")
    if resume is not None and (folder is not None or init is not None or encoder is not None):
        raise ConfigError("a run that is resumed goes on in its folder, from its own weights: name nothing else")
    if recipe.network != "sgmsnet" and (init is not None or encoder is not None):
        raise ConfigError(f"weights to start from are those of SGMSNet, not of {recipe.network}")
    if recipe.pseudo_labels:
        labels = checkpoint.find(recipe.pseudo_labels, check_graph=False)
        known = set(labels.config.classes)
        if not known & set(recipe.model.classes):
            raise ConfigError(f"{labels.name} knows none of the classes {', '.join(recipe.model.classes)}")
        if unknown := [name for name in recipe.unlabelled if name not in known]:
            raise ConfigError(f"no source labels the class {', '.join(unknown)}, nor does {labels.name}")
    pl.seed_everything(recipe.seed, verbose=False)
    folder = resume or folder or runs_root() / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if resume is None and (folder / "checkpoints").exists():
        raise ConfigError(f"{folder} holds a run already: --resume it, or choose another folder")
    data = RecipeData(recipe)
    steps_per_epoch = max(data.samples_per_epoch // recipe.batch_size, 1)
    precision = precision_of(recipe, machine)
    module = SegmentationModule(
        recipe,
        total_steps=steps_per_epoch * recipe.epochs,
        source_names=list(data.validation_samples),
        fused=precision != "16-mixed",
    )
    if init is not None and (left := start_from(cast(SGMSNet, module.network), init)):
        _log.warning("%s has no weights for %s, which start anew", init, ", ".join(left))
    if encoder is not None:
        load_encoder(cast(SGMSNet, module.network), checkpoint.load_encoder_file(encoder))
    last = folder / "checkpoints" / "last.ckpt"
    if resume is not None:
        _check_fits(last, module.network)
    with _without_noise():
        trainer = _trainer(recipe, folder, machine, precision=precision, steps_per_epoch=steps_per_epoch)
        if trainer.is_global_zero:
            _describe(folder, recipe, precision=precision, resumed=resume is not None)
            for line in data.lines():
                say(line)
            say(f"{recipe.epochs} epochs of {steps_per_epoch} steps in {precision}, in {folder}")
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if trainer.is_global_zero:
        draw_curves(folder)
        if recipe.network == "sgmsnet":
            save_weights(folder, recipe)
    return folder


def _check_fits(checkpoint_file: Path, network: nn.Module) -> None:
    """Raise ConfigError where a run was trained with another network than its recipe names by now."""
    state = torch.load(checkpoint_file, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    own = network.state_dict()
    shapes = {key.removeprefix("network."): value.shape for key, value in state.items() if key.startswith("network.")}
    if shapes != {key: value.shape for key, value in own.items()}:
        raise ConfigError(
            "this run trained another network; a changed one starts from its weights in a new run: --init WEIGHTS"
        )


def precision_of(recipe: Recipe, machine: Machine) -> str:
    """The recipe's precision; for auto, BF16 where the hardware multiplies it, else FP16 on a GPU and FP32 on a CPU."""
    if recipe.precision != "auto":
        return recipe.precision
    if torch.cuda.is_available() and machine.accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if multiplies_bf16() else "32-true"


def _trainer(recipe: Recipe, folder: Path, machine: Machine, *, precision: str, steps_per_epoch: int) -> pl.Trainer:
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        filename="last",
        every_n_epochs=1,
        # A resumed run, in a folder that was moved too, goes on writing last.ckpt and not last-v1.ckpt beside it.
        enable_version_counter=False,
    )
    decay = averaging_decay(recipe, total_steps=steps_per_epoch * recipe.epochs)
    return pl.Trainer(
        max_epochs=recipe.epochs,
        precision=cast(Any, precision),
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy=machine.strategy,
        sync_batchnorm=machine.sync_batchnorm,
        use_distributed_sampler=False,  # RecipeData shares out, without counting an image twice
        gradient_clip_val=recipe.clip_norm,
        benchmark=True,  # of cuDNN's algorithms: all batches of a phase have one shape
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, steps_per_epoch),
        enable_model_summary=False,
        # A resumed run writes metrics/version_1 and so on; the curves join them.
        logger=[CSVLogger(folder, name="metrics"), TensorBoardLogger(folder, name="", version="tensorboard")],
        callbacks=[
            checkpoints,
            # Lightning's EMAWeightAveraging goes tensor by tensor, which takes a twelfth of a step on two CPU cores.
            WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay)),
            LearningRateMonitor("step"),
            Clock(),
            Curves(folder),
        ],
    )


def averaging_decay(recipe: Recipe, *, total_steps: int) -> float:
    """The recipe's decay of the averaged weights, or a shorter one where the training is short.

    It leaves the first step's weights a twentieth of the average at most, where 0.998 would leave them 79 % after 120.
    """
    return min(recipe.ema_decay, 1 - 3 / (total_steps + 3))


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leave out what Lightning says of itself: advertising, its own deprecations, advice that does not fit here."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def no_tip(record: logging.LogRecord) -> bool:
        return "Tip: For seamless cloud" not in record.getMessage()

    log.addFilter(no_tip)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # Only a resumed run gets as far as this: `train` refuses any other.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated")
            yield
    finally:
        log.removeFilter(no_tip)


def start_from(network: SGMSNet, model: str | Path) -> list[str]:
    """Copy the tensors of a weights file that fit by name and shape; return the names that did not.

    The head is copied class by class. One for other classes stays as initialised, so that a model can be fine-tuned to
    new classes. Raises ConfigError for a memory that was trained with another scale of its queries.
    """
    files = checkpoint.find(model)
    have_memory = files.config.memory_stages and network.config.memory_stages
    if have_memory and files.config.scale_query != network.config.scale_query:
        raise ConfigError(
            f"{files.name} was trained with scale_query: {str(files.config.scale_query).lower()}; with the other its "
            "memory answers something else"
        )
    state = checkpoint.load_network(files).state_dict()
    own = network.state_dict()
    for key in ("head.weight", "head.bias"):
        state[key] = _by_class(state[key], files.config.classes, own[key], network.config.classes)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    unknown = [f"head of {name}" for name in network.config.classes if name not in files.config.classes]
    return [key for key in own if key not in fitting] + unknown


def _by_class(given: Tensor, of: Sequence[str], own: Tensor, classes: Sequence[str]) -> Tensor:
    """(K, ...) of some classes -> a copy of `own` (L, ...) with the rows of the classes that both have."""
    if given.shape[1:] != own.shape[1:]:
        return given  # of another width: it fits nowhere
    filled = own.clone()
    for row, name in enumerate(classes):
        if name in of:
            filled[row] = given[of.index(name)]
    return filled


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the last checkpoint of a run holds."""

    network: nn.Module
    """With the averaged weights, in eval mode."""
    epochs: int
    steps: int
    seconds: float | None
    """Spent in training steps; None for a run of a version that did not count them."""


def load_trained(folder: Path, recipe: Recipe) -> Trained:
    """Read the last checkpoint of a run of this recipe."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    network = build_network(recipe)
    weights = {k.removeprefix("network."): v for k, v in state["state_dict"].items() if k.startswith("network.")}
    network.load_state_dict(weights)
    return Trained(
        network=network.eval(),
        epochs=int(state["epoch"]) + 1,
        steps=int(state["global_step"]),
        seconds=state["callbacks"].get("Clock", {}).get("seconds"),
    )


def save_weights(folder: Path, recipe: Recipe, *, thresholds: dict[str, float] | None = None) -> Path:
    """Write NAME.safetensors in a run's folder from the averaged weights of its last checkpoint."""
    trained = load_trained(folder, recipe)
    path = folder / f"{recipe.name}.safetensors"
    checkpoint.save(
        path,
        cast(SGMSNet, trained.network),
        name=recipe.name,
        thresholds=thresholds or dict.fromkeys(recipe.model.classes, 0.5),
        temperature=dict.fromkeys(recipe.model.classes, 1.0),
        provenance={
            "recipe": recipe.to_dict(),
            "epochs": trained.epochs,
            "steps": trained.steps,
            "revision": _revision(),
        },
    )
    return path


def _describe(folder: Path, recipe: Recipe, *, precision: str, resumed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")
    about: dict[str, Any] = {
        "revision": _revision(),
        "precision": precision,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "started": time.ctime(),
    }
    path = folder / ABOUT
    if resumed and path.is_file():  # on another machine perhaps: what each part was trained with stays known
        first = json.loads(path.read_text(encoding="utf-8"))
        about = {**first, "resumed": [*first.get("resumed", ()), about]}
    path.write_text(json.dumps(about, indent=2), encoding="utf-8")


def precisions_of(folder: Path) -> list[str]:
    """Every precision that a run's parts were trained in, in order; none for a folder that does not tell."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return list(dict.fromkeys(part["precision"] for part in (about, *about.get("resumed", ())) if "precision" in part))


def _revision() -> str:
    """Git revision of the code, with "+changes" where it was not committed; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"])
        head, changes = (
            subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+changes" if changes.strip() else "")
