"""prunekit finetune: recover accuracy by training a saved model."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from ..errors import PruneError, TrainingInterrupted
from ..files.reading import cleaned
from ..recovery.recipes import DEFAULT, Recipe, names
from .common import (
    add_data,
    add_examples,
    add_output,
    place,
    print_report,
    progress,
    say_saved,
    warn,
)
from .live import showing

if TYPE_CHECKING:
    from ..finetuning import Finetuned


EXAMPLES = """
prunekit finetune swin-half --epochs 5 --distill
prunekit finetune swin-half --recipe isomorphic --data imagenet --out swin-tuned
torchrun --nproc-per-node 8 -m prunekit finetune swin-half --data imagenet
prunekit finetune swin-half --resume
"""


def add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", type=place, help="a model that prunekit saved")
    add("--out", type=place, help="directory to save the trained model in (DIRECTORY-finetuned)")
    add("--recipe", default=DEFAULT, help=f"{', '.join(names())}, or a TOML file ({DEFAULT})")
    add("--resume", action="store_true", help="go on where a run was cut off")
    add_data(parser)
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--workers", type=int, default=0, help="processes that prepare images (0)")
    add("--seed", type=int, default=0)
    add("--tracker", help="tensorboard, wandb or mlflow")
    add("--checkpoint-minutes", type=float, default=10.0, help="between two checkpoints (10)")
    add_output(parser)
    add_examples(parser, EXAMPLES)
    group = parser.add_argument_group("settings of the recipe", "each replaces the recipe's own")
    for entry in fields(Recipe):
        flag, about = f"--{entry.name.replace('_', '-')}", entry.metadata["help"]
        if isinstance(entry.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=about)
        else:
            group.add_argument(flag, type=type(entry.default), help=about, metavar="VALUE")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    main = int(os.environ.get("RANK", "0")) == 0  # of the processes that were launched together
    try:
        done = _finetune(options, main)
    except TrainingInterrupted as stop:
        if main:
            print(f"prunekit: {stop}", file=sys.stderr)
        return 130
    except PruneError:
        if main:
            raise
        return 2
    if main and options.quiet:
        warn(done.report["warnings"])
    elif main:
        print_report(dict(done.report), options.json)
        if not options.json:
            say_saved(done.directory)
            print(cleaned(f"          its checkpoints in {done.directory}.training may be deleted"))
    return 0


def _finetune(options: argparse.Namespace, main: bool) -> Finetuned:
    overrides = {entry.name: getattr(options, entry.name) for entry in fields(Recipe)}
    with progress("load torch", quiet=options.quiet):
        from ..finetuning import finetune
        from ..recovery import recipes
        from ..recovery.training import leave

        recipe = recipes.find(options.recipe).with_(**overrides)
    with showing(recipe.epochs, main and not options.quiet) as (screen, should_stop):
        done = finetune(
            options.directory,
            options.out,
            recipe=options.recipe,
            overrides=overrides,
            data=options.data,
            data_dir=options.data_dir,
            device=options.device,
            seed=options.seed,
            workers=options.workers,
            resume=options.resume,
            tracker=options.tracker,
            checkpoint_minutes=options.checkpoint_minutes,
            on_step=screen.on_step,
            on_update=screen.on_update,
            on_epoch=screen.on_epoch,
            should_stop=should_stop,
        )
        leave()
    return done
