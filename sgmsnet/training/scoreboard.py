"""What a comparison of networks consists of: one recipe, rows that change it, seeds, and image sets. YAML in; no torch.

A row changes the recipe that all rows share: another network, other options of SGMSNet, or a source left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sgmsnet.config import ConfigError
from sgmsnet.training.data import DatasetError, Sample, SourceConfig, Split, find_samples, spread
from sgmsnet.training.recipe import Recipe, load_yaml, with_numbers

SCOREBOARDS = Path(__file__).parent / "scoreboards"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A set of images that rows are measured on, by one class."""

    name: str
    label: str
    """The class that is measured."""
    source: SourceConfig
    title: str = ""
    split: Split = "val"
    limit: int = 0
    """So many images, evenly spread over the part; 0: all."""

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "all"):
            raise ConfigError(f"part {self.name}: split is train, val or all, not {self.split!r}")

    def samples(self) -> list[Sample]:
        """The labelled images; raises DatasetError."""
        samples = [sample for sample in find_samples(self.source, split=self.split) if self.label in sample.masks]
        if not samples:
            raise DatasetError(f"{self.source.path}: no image of the {self.split} part has a mask of {self.label}")
        return spread(samples, self.limit)


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """One network of the comparison."""

    name: str
    """Of its folder, and for --rows."""
    title: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What it changes in the shared recipe; `model` is changed field by field."""
    leave_out: tuple[str, ...] = ()
    """Names of parts whose source is not trained on."""
    parts: tuple[str, ...] = ()
    """Names of the parts that it is measured on; all if there are none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "leave_out", tuple(self.leave_out))
        object.__setattr__(self, "parts", tuple(self.parts))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that decides a scoreboard but the machine."""

    name: str
    title: str
    recipe: Mapping[str, Any]
    """Plain values of the recipe that all rows share."""
    rows: tuple[RowConfig, ...]
    parts: tuple[Part, ...]
    seeds: tuple[int, ...]
    reference: str
    """The row that all others are tested against."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a comparison needs rows with different names")
        if self.reference not in names:
            raise ConfigError(f"the reference {self.reference!r} is none of the rows {', '.join(names)}")
        if not self.parts or not self.seeds:
            raise ConfigError("a comparison needs parts to measure on, and seeds")
        known = {part.name for part in self.parts}
        for row in self.rows:
            if unknown := ({*row.leave_out, *row.parts} - known):
                raise ConfigError(f"row {row.name}: there is no part called {', '.join(sorted(unknown))}")

    def recipe_of(self, row: RowConfig, seed: int) -> Recipe:
        """The recipe that a row trains. Raises ConfigError."""
        values = {**self.recipe, **row.recipe, "name": row.name, "seed": seed}
        values["model"] = {**self.recipe.get("model", {}), **row.recipe.get("model", {})}
        recipe = Recipe.from_dict(values)
        left_out = [self.part(name).source for name in row.leave_out]
        kept = tuple(s for s in recipe.sources if not any(replace(s, weight=1.0) == out for out in left_out))
        return replace(recipe, sources=kept)

    def part(self, name: str) -> Part:
        """The part of this name."""
        return next(part for part in self.parts if part.name == name)

    def parts_of(self, row: RowConfig) -> list[Part]:
        """What a row is measured on."""
        return [part for part in self.parts if not row.parts or part.name in row.parts]

    def chosen(self, names: Sequence[str]) -> tuple[RowConfig, ...]:
        """The rows of these names, all if there are none; raises ConfigError for a name that no row has."""
        if unknown := set(names) - {row.name for row in self.rows}:
            known = ", ".join(row.name for row in self.rows)
            raise ConfigError(f"there is no row {', '.join(sorted(unknown))}; there are {known}")
        return tuple(row for row in self.rows if not names or row.name in names)


def load_comparison(name: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison by name (a file in training/scoreboards) or path, with dotted `key=value` overrides.

    `rows` may name a YAML file beside it that lists them under `rows`. Raises ConfigError or DatasetError.
    """
    values = load_yaml(name, overrides, folder=SCOREBOARDS)
    beside = SCOREBOARDS if (SCOREBOARDS / f"{name}.yaml").is_file() else Path(name).parent
    try:
        values = with_numbers(Comparison, values)
        rows = values.get("rows", ())
        if isinstance(rows, str):
            rows = load_yaml(beside / rows, folder=beside).get("rows", ())
        values["rows"] = tuple(RowConfig(**with_numbers(RowConfig, row)) for row in rows)
        values["parts"] = tuple(_part(part) for part in values.get("parts", ()))
        values["seeds"] = tuple(int(seed) for seed in values.get("seeds", (1,)))
        values.setdefault("title", values.get("name"))
        comparison = Comparison(**values)
    except TypeError as error:
        raise ConfigError(f"the comparison cannot be used: {str(error).split(') ')[-1]}") from None
    for row in comparison.rows:
        comparison.recipe_of(row, comparison.seeds[0])  # every mistake before the first training, not after it
    return comparison


def _part(values: Any) -> Part:
    values = with_numbers(Part, values)
    values["source"] = SourceConfig(**with_numbers(SourceConfig, values.get("source")))
    return Part(**values)


def _may_outline(source: SourceConfig, label: str) -> bool:
    """Whether a source has masks of a class; where it cannot be read, training says why."""
    try:
        return any(label in sample.masks for sample in find_samples(source, split="val"))
    except DatasetError:
        return True


def leave_one_source_out(recipe: Recipe, *, seeds: Sequence[int] = ()) -> Comparison:
    """A recipe trained on all its sources, and once without each, measured on that source's validation part.

    Sources of one folder may be of one collection (`gb_` and `v7_` are), so each such folder is left out as a whole
    too. Sources without a mask of the recipe's first class stay in every training, also where their masks are named but
    are not there. Raises ConfigError.
    """
    label = recipe.model.classes[0]
    parts: list[Part] = []
    for source in recipe.sources:
        if label in source.masks and _may_outline(source, label):
            name = (
                f"{Path(source.path).name}-{source.include.strip('^_')}" if source.include else Path(source.path).name
            )
            if source.adults is not None:
                name += "-adults" if source.adults else "-children"
            parts.append(Part(name=name, label=label, source=replace(source, weight=1.0)))
    if len(parts) < 2:
        raise ConfigError(f"to leave one source out, recipe {recipe.name} needs two or more with masks of {label}")
    without = [
        RowConfig(name=f"without-{part.name}", title=f"without {part.name}", leave_out=(part.name,), parts=(part.name,))
        for part in parts
    ]
    for path in dict.fromkeys(part.source.path for part in parts):
        names = tuple(part.name for part in parts if part.source.path == path)
        if 1 < len(names) < len(parts):
            title = f"without {' and '.join(names)}"
            without.append(RowConfig(name=f"without-all-{Path(path).name}", title=title, leave_out=names, parts=names))
    return Comparison(
        name=f"{recipe.name}-sources",
        title=f"{recipe.name}, one source left out of the training",
        recipe=recipe.to_dict(),
        rows=(RowConfig(name="all", title="all sources"), *without),
        parts=tuple(parts),
        seeds=tuple(seeds) or (recipe.seed,),
        reference="all",
    )
