"""prunekit run: prune a model, measure it, and save it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import add_data, print_report, progress, words


def add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--arch", required=True, help="a name of the zoo, an alias, or any timm name")
    add("--criterion", default="dimap", help="name, or name:option=value (default: dimap)")
    add("--ratio", type=float, default=0.5, help="fraction of the whole model to remove (0.5)")
    add("--by", default="params", help="what it counts: params, macs or slices (params)")
    add("--scope", help="where slices compete: axis, kind or model (the criterion's own)")
    add("--axes", type=words, help="kinds that may shrink: mlp,head,head_dim,width")
    add("--include", type=words, default=(), help="globs on axis names, comma-separated")
    add("--exclude", type=words, default=(), help="globs on axis names, comma-separated")
    add("--floor", type=float, default=0.1, help="smallest kept fraction of an axis (0.1)")
    add("--multiple", type=int, default=8, help="kept MLP and width sizes are multiples of it (8)")
    add("--weights", default="auto", help="auto, pretrained, random, or a file")
    add_data(parser)
    add("--calibration", type=int, default=512, help="calibration images a criterion may see (512)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="directory to save the small model in")
    add("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with progress("load torch") as on_step:
        from ..artifact import check_writable
        from ..engine import prune

        if options.out:
            check_writable(options.out)
        result = prune(
            options.arch,
            options.criterion,
            options.ratio,
            by=options.by,
            scope=options.scope,
            axes=options.axes,
            include=options.include,
            exclude=options.exclude,
            floor=options.floor,
            multiple=options.multiple,
            weights=options.weights,
            data=options.data,
            data_dir=options.data_dir,
            calibration=options.calibration,
            evaluate=True,
            device=options.device,
            seed=options.seed,
            on_step=on_step,
        )
    if options.out:
        result.save(options.out)
    print_report(result.report(), options.json)
    if not options.json:
        print(f"saved     {options.out or 'nowhere; add --out DIR to keep the model'}")
    return 0
