"""`python -m sgmsnet train`: run a recipe, resume a stopped run, fine-tune from weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from sgmsnet.commands import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; imports nothing heavy."""
    parser.add_argument("recipe", nargs="?", help="name of a recipe (cxr, qata-paper, lungs) or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="right behind the recipe, as batch_size=8 phases.0.epochs=3"
    )
    parser.add_argument(
        "--run",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="folder of this run; default $SGMSNET_RUNS/NAME-TIME",
    )
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a stopped run, from its last epoch")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from these weights (a name or a .safetensors file)")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="torchvision resnet34 weights for the encoder")


def run(args: argparse.Namespace) -> int:
    """Train; return the exit code."""
    from sgmsnet.checkpoint import WeightsError
    from sgmsnet.config import ConfigError
    from sgmsnet.training.data import DatasetError
    from sgmsnet.training.recipe import load_recipe
    from sgmsnet.training.run import train

    try:
        if args.resume is not None:
            if not (args.resume / "checkpoints" / "last.ckpt").is_file():
                raise ConfigError(f"{args.resume} holds no checkpoint to resume from")
            overrides = [args.recipe, *args.overrides] if args.recipe else []
            recipe = load_recipe(args.resume / "recipe.yaml", overrides)
        elif args.recipe is None:
            raise ConfigError("name a recipe, or a run to --resume")
        else:
            recipe = load_recipe(args.recipe, args.overrides)
        folder = train(recipe, folder=args.folder, resume=args.resume, init=args.init, encoder=args.encoder)
    except (ConfigError, DatasetError, WeightsError, ValueError) as error:
        raise CommandError(str(error)) from None
    print(f"{folder / recipe.name}.safetensors")
    return 0
