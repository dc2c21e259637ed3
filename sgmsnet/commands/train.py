"""`python -m sgmsnet train`: run a recipe, resume a stopped run, fine-tune from weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sgmsnet.commands import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; imports nothing heavy."""
    parser.add_argument("recipe", nargs="?", help="name of a recipe (cxr, qata-paper, lungs, lungs-cpu) or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="right behind the recipe, as batch_size=8 phases.0.epochs=3"
    )
    parser.add_argument(
        "--run",
        "--output",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="folder of this run; default $SGMSNET_RUNS/NAME-TIME; behind torchrun, which takes --run for one of its "
        "own options, write --output",
    )
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a stopped run, from its last epoch")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from these weights (a name or a .safetensors file)")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="torchvision resnet34 weights for the encoder")
    several = parser.add_argument_group("several GPUs or nodes", "torchrun needs none of these but --sync-batchnorm")
    several.add_argument("--devices", type=int, default=0, metavar="N", help="processes on each node, one a GPU")
    several.add_argument("--nodes", type=int, default=0, metavar="N", help="nodes, each started with the same command")
    several.add_argument("--strategy", default="", help="Lightning's strategy; default: ddp for several processes")
    several.add_argument("--accelerator", default="auto", choices=["auto", "gpu", "cpu"], help="what to train on")
    several.add_argument(
        "--sync-batchnorm", action="store_true", help="batch statistics over the whole batch, on GPUs only"
    )


def run(args: argparse.Namespace) -> int:
    """Train; return the exit code."""
    from sgmsnet.checkpoint import WeightsError
    from sgmsnet.config import ConfigError
    from sgmsnet.training.data import DatasetError
    from sgmsnet.training.machine import Machine
    from sgmsnet.training.recipe import load_recipe
    from sgmsnet.training.run import train

    try:
        if args.resume is not None:
            if not (args.resume / "checkpoints" / "last.ckpt").is_file():
                raise ConfigError(
                    f"{args.resume} holds no checkpoint to resume from: a run that was stopped in its first epoch is "
                    "begun again by the command that began it"
                )
            overrides = [args.recipe, *args.overrides] if args.recipe else []
            recipe = load_recipe(args.resume / "recipe.yaml", overrides)
        elif args.recipe is None:
            raise ConfigError("name a recipe, or a run to --resume")
        else:
            recipe = load_recipe(args.recipe, args.overrides)
        machine = Machine(
            devices=args.devices,
            nodes=args.nodes,
            strategy=args.strategy,
            accelerator=args.accelerator,
            sync_batchnorm=args.sync_batchnorm,
        )
        folder = train(
            recipe,
            folder=args.folder,
            resume=args.resume,
            init=args.init,
            encoder=args.encoder,
            machine=machine,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ConfigError, DatasetError, WeightsError, ValueError) as error:
        raise CommandError(str(error)) from None
    print(f"{folder / recipe.name}.safetensors" if recipe.network == "sgmsnet" else folder / "checkpoints/last.ckpt")
    return 0
