"""One YAML file -> one checked description of a training run; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.training.data import SourceConfig

RECIPES = Path(__file__).parent / "recipes"
NETWORKS = ("sgmsnet", "unet", "attention-unet", "unetplusplus", "dynunet")
"""What a recipe can train: the network of its `model`, or one of MONAI's to compare with (baselines.py)."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs at one input size; small images first make long trainings affordable."""

    epochs: int
    size: int
    """Side of the square input in pixels, a multiple of 32."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a training image may be changed; probabilities are per image."""

    rotate_degrees: float = 15.0
    scale: float = 0.2
    """Largest relative change of size, of both axes together."""
    aspect: float = 0.25
    """Largest relative change of width : height, or of height : width: QaTa images are squashed to squares."""
    shift: float = 0.08
    """Largest shift, relative to the side."""
    flip: float = 0.0
    """Probability of a left-right flip."""
    elastic: float = 0.12
    """Largest relative stretch of a cell of a 4x4 grid that bends the image smoothly."""
    elastic_probability: float = 0.25
    gamma: tuple[float, float] = (0.6, 1.7)
    """Smallest and largest exponent of the grey levels; linear contrast is undone by the network's normalisation."""
    gamma_probability: float = 0.5
    noise: float = 8.0
    """Largest standard deviation of added noise, in grey levels."""
    noise_probability: float = 0.2
    blur_sigma: float = 1.0
    """Largest sigma of a Gaussian blur, in pixels."""
    blur_probability: float = 0.2
    dropout_probability: float = 0.2
    """Probability of blanking some rectangles of at most an eighth of the side."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run but the machine."""

    name: str
    model: ModelConfig
    sources: tuple[SourceConfig, ...]
    phases: tuple[Phase, ...]
    network: str = "sgmsnet"
    """One of NETWORKS; of `model`, the others use the classes alone."""
    network_width: int = 32
    """Channels of the first level of a network to compare with."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    samples_per_epoch: int = 0
    """Samples drawn in an epoch by the sources' weights; 0: as many as there are."""
    batch_size: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    """Of the averaged weights, which are what is saved, a step; less where a training is short (run.py)."""
    dice_weight: float = 1.0
    """Weight of the soft Dice loss beside binary cross-entropy."""
    class_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of a class's loss; 1 where not given."""
    pseudo_labels: str = ""
    """A model, by name or weights file, whose answer is learned where a class has no mask; "": it is left out there."""
    pseudo_label_weight: float = 0.5
    """Of a pseudo-label in the loss, where a mask counts 1."""
    precision: str = "auto"
    """Lightning's precision, or auto: what the processor that trains multiplies fastest."""
    workers: int = field(default=-1, compare=False)
    """Processes that prepare batches. 0: the one that trains. -1: one, or for a GPU its share of the cores up to 8."""
    seed: int = 1
    validation_limit: int = 300
    """Images of each source that are looked at after an epoch, 0: all; the full parts are for `evaluate`."""

    def __post_init__(self) -> None:
        if self.unlabelled and not self.pseudo_labels:
            raise ConfigError(f"no source labels the class {', '.join(self.unlabelled)}")
        if not self.phases or any(phase.epochs < 1 or phase.size < 32 or phase.size % 32 for phase in self.phases):
            raise ConfigError("phases need epochs of 1 or more and a size that is a multiple of 32")
        if self.network not in NETWORKS:
            raise ConfigError(f"no network is called {self.network!r}; there are {', '.join(NETWORKS)}")
        if self.network_width < 1:
            raise ConfigError(f"network_width must be 1 or more, not {self.network_width}")
        if not 0 < self.pseudo_label_weight <= 1:
            raise ConfigError(f"pseudo_label_weight must be over 0 and at most 1, not {self.pseudo_label_weight}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, not {self.batch_size}")

    @property
    def unlabelled(self) -> list[str]:
        """The classes that no source labels."""
        labelled = {name for source in self.sources for name in (*source.masks, *source.empty)}
        return sorted(set(self.model.classes) - labelled)

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def size(self, epoch: int) -> int:
        """Input side in pixels of an epoch counted from 0; the last phase's size beyond the end."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase.size
            epoch -= phase.epochs
        return self.phases[-1].size

    def to_dict(self) -> dict[str, Any]:
        """A YAML-ready dictionary; `from_dict` reads it back."""
        values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_plain(asdict(self))))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build from nested dictionaries; the model's input is as large as the last phase's unless `model` says it.

        Raises ConfigError (or DatasetError) in one sentence.
        """
        try:
            values = with_numbers(cls, values)
            sources, phases = values.get("sources", ()), values.get("phases", ())
            values["sources"] = tuple(SourceConfig(**with_numbers(SourceConfig, source)) for source in sources)
            values["phases"] = tuple(Phase(**with_numbers(Phase, phase)) for phase in phases)
            trained = {side: phase.size for phase in values["phases"][-1:] for side in ("height", "width")}
            values["model"] = ModelConfig.from_dict({**trained, **(values.get("model") or {})})
            if augmentation := values.get("augmentation"):
                augmentation = with_numbers(Augmentation, augmentation)
                if "gamma" in augmentation:
                    augmentation["gamma"] = tuple(augmentation["gamma"])
                values["augmentation"] = Augmentation(**augmentation)
            return cls(**values)
        except TypeError as error:  # an unknown or missing field, as the dataclass words it
            detail = str(error).split(") ")[-1]
            raise ConfigError(f"the recipe cannot be used: {detail}") from None


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name (a file in training/recipes) or path; `overrides` are dotted `key=value` pairs.

    `batch_size=8`, `model.classes=[lungs]`, `phases.0.epochs=3`: values are read as YAML.
    """
    return Recipe.from_dict(load_yaml(name, overrides, folder=RECIPES))


def load_yaml(name: str | Path, overrides: Sequence[str] = (), *, folder: Path) -> dict[str, Any]:
    """The plain values of a YAML file, named by its path or by its stem in `folder`, with overrides applied.

    Raises ConfigError in one sentence.
    """
    path = folder / f"{name}.yaml" if (folder / f"{name}.yaml").is_file() else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"no recipe {name}: give a YAML file, or one of {known}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a recipe")
    for override in overrides:
        _override(values, override)
    return values


def _override(values: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"an override reads key=value, not {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"the value of {override!r} is not valid YAML") from None
    *parents, last = key.split(".")
    try:
        for parent in parents:
            values = values[int(parent)] if isinstance(values, list) else values.setdefault(parent, {})
        values[int(last) if isinstance(values, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"the recipe has no place for {key!r}") from None


def with_numbers(kind: type, values: Any) -> dict[str, Any]:
    """A copy whose numeric fields are numbers: YAML 1.1 takes 1e-3 for text. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"the recipe cannot be used: {values!r} stands where fields of a {kind.__name__} belong")
    result = dict(values)
    for item in fields(kind):
        if item.type in ("int", "float") and item.name in result:
            try:
                number = float(result[item.name])
            except (TypeError, ValueError):
                raise ConfigError(f"{item.name} must be a number, not {result[item.name]!r}") from None
            if item.type == "int" and not number.is_integer():
                raise ConfigError(f"{item.name} must be a whole number, not {number:g}")
            result[item.name] = int(number) if item.type == "int" else number
    return result


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
