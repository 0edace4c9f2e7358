"""prunekit run: prune a model, measure it, and save it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrainingError
from .common import add_data, print_report, progress, words

if TYPE_CHECKING:
    from ..recovery.recipes import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--arch", required=True, help="a name of the zoo, an alias, or any timm name")
    add("--criterion", default="dimap", help="name, or name:option=value (default: dimap)")
    add("--ratio", type=float, help="fraction of the whole model to remove (0.5)")
    add("--granularity", default="slice", help="what leaves: slice, weight, or n:m (slice)")
    add("--by", default="params", help="what it counts: params, macs or slices (params)")
    add("--scope", help="where slices compete: axis, kind or model (the criterion's own)")
    add("--repair", default="none", help="adjusts what stays: none, bias or lstsq (none)")
    add("--axes", type=words, help="kinds that may shrink: mlp,head,head_dim,width")
    add("--include", type=words, default=(), help="globs on axis names, comma-separated")
    add("--exclude", type=words, default=(), help="globs on axis names, comma-separated")
    add("--floor", type=float, default=0.1, help="smallest kept fraction of an axis (0.1)")
    add("--multiple", type=int, default=8, help="kept MLP and width sizes are multiples of it (8)")
    add("--steps", type=int, default=1, help="rounds of scoring, cutting and repairing (1)")
    add("--schedule", default="cubic", help="what each round removes: linear or cubic (cubic)")
    add("--finetune", type=int, metavar="N", help="train for N epochs after every round")
    add("--recipe", help="how to train: quick, dimap, isomorphic or a TOML file (quick)")
    add("--distill", action="store_true", help="learn from the dense model too")
    add("--weights", default="auto", help="auto, pretrained, random, or a file")
    add_data(parser)
    add("--calibration", type=int, default=512, help="images criterion and repair may see (512)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="directory to save the small model in")
    add("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with progress("load torch") as on_step:
        from ..artifact import check_writable
        from ..engine import prune

        recipe = _recipe(options)
        if options.out:
            check_writable(options.out)
        result = prune(
            options.arch,
            options.criterion,
            options.ratio,
            granularity=options.granularity,
            by=options.by,
            scope=options.scope,
            repair=options.repair,
            axes=options.axes,
            include=options.include,
            exclude=options.exclude,
            floor=options.floor,
            multiple=options.multiple,
            steps=options.steps,
            schedule=options.schedule,
            finetune=recipe,
            weights=options.weights,
            data=options.data,
            data_dir=options.data_dir,
            calibration=options.calibration,
            evaluate=True,
            device=options.device,
            seed=options.seed,
            on_step=on_step,
            on_epoch=lambda epoch: on_step(f"train: epoch {epoch.epoch} of {options.finetune}"),
        )
    if options.out:
        result.save(options.out)
    print_report(result.report(), options.json)
    if not options.json:
        print(f"saved     {options.out or 'nowhere; add --out DIR to keep the model'}")
    return 0


def _recipe(options: argparse.Namespace) -> Recipe | None:
    """Return how to train, if at all."""
    from ..recovery import recipes

    if options.finetune is not None:
        recipe = recipes.find(options.recipe or recipes.DEFAULT)
        return recipe.with_(epochs=options.finetune, distill=options.distill or recipe.distill)
    if options.recipe or options.distill:
        raise TrainingError(
            "--recipe and --distill say how to train, but nothing says that or how long; add "
            "--finetune with a number of epochs."
        )
    return None
