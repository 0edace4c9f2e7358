"""prunekit sensitivity: cut every axis alone, and see what that costs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import (
    INTERRUPTED,
    add_data,
    add_examples,
    add_output,
    place,
    progress,
    say_saved,
    warn,
    words,
)
from .launching import add_launcher, cluster_of
from .run import pixels

if TYPE_CHECKING:
    from ..sensing.measure import Sensitivity

EXAMPLES = """
prunekit sensitivity --arch swin_micro --criterion dimap --repair lstsq
prunekit sensitivity --arch vit_micro --axes mlp,head,block --by latency --out there
prunekit sensitivity --arch swin_t --weights random --data there --launcher ray --address auto
prunekit sensitivity --arch vit_b --weights vit_b.pth --data imagenet --out vit_b-sensitivity
"""
WORDS = (  # of prune, that say what is measured
    *("repair", "axes", "include", "exclude", "multiple", "weights", "img_size", "adapter"),
    *("by", "latency_batch"),
    *("data", "data_dir", "calibration", "device", "seed"),
)


def add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--arch", required=True, help="of the zoo, an alias, any timm name, or a saved model")
    add("--criterion", default="dimap", help="name, or name:option=value (default: dimap)")
    add("--ratios", type=numbers, help="fractions of an axis to remove (0.25,0.5,0.75)")
    add("--repair", default="none", help="as prunekit run takes it (none)")
    add("--axes", type=words, help="kinds of axes: mlp,conv,head,head_dim,width,block")
    add("--include", type=words, default=(), help="globs on axis names, comma-separated")
    add("--exclude", type=words, default=(), help="globs on axis names, comma-separated")
    add("--by", default="params", help="what is saved: params, macs or latency (params)")
    add("--latency-batch", type=int, default=1, metavar="N", help="images in a pass by latency (1)")
    add("--multiple", type=int, default=8, help="kept MLP and width sizes are multiples of it (8)")
    add("--weights", default="auto", help="auto, pretrained, random, or a file")
    add("--img-size", type=pixels, metavar="N", help="of images: one number, or height,width")
    add("--adapter", help="what knows the model")
    add_data(parser)
    add("--calibration", type=int, default=512, help="training images that are looked at (512)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--seed", type=int, default=0)
    add("--out", type=place, help="directory for the figures and a chart; what is there goes on")
    add_launcher(parser)
    add_output(parser)
    add_examples(parser, EXAMPLES)
    parser.set_defaults(run=_run)


def numbers(text: str) -> tuple[float, ...]:
    """Read "0.25,0.5"."""
    return tuple(map(float, words(text)))


def _run(options: argparse.Namespace) -> int:
    with progress("load torch", quiet=options.quiet, interrupted=_interrupted(options)) as on_step:
        from ..sensing.kept import Kept
        from ..sensing.measure import RATIOS, measured_here, sensitivity

        cluster = cluster_of(options)

        asked = {word: getattr(options, word) for word in ("arch", "criterion", *WORDS)}
        ratios = options.ratios or RATIOS
        kept = Kept(options.out, {**asked, "ratios": ratios}) if options.out else None
        found = sensitivity(
            options.arch,
            options.criterion,
            ratios=ratios,
            launcher=cluster.cuts if cluster else measured_here,
            known=kept.effects if kept else (),
            on_step=on_step,
            on_effect=kept.add if kept else lambda effect: None,
            **{word: asked[word] for word in WORDS},
        )
        if kept:
            kept.finish(found)
            _draw(options, found)
    warn(found.warnings)
    if options.json:
        print(json.dumps(asdict(found), indent=1))
    elif not options.quiet:
        from rich.console import Console

        from ..sensing.shown import render

        Console(highlight=False).print(render(found))
        say_saved(options.out or "nowhere; add --out DIR to keep it")
    return 0


def _interrupted(options: argparse.Namespace) -> str:
    """Say what is left of a run that is cut off."""
    if options.out is None:
        return INTERRUPTED
    return (
        f"prunekit: interrupted; what was measured so far, if anything, is in {options.out}: "
        "repeat the command to go on."
    )


def _draw(options: argparse.Namespace, found: Sensitivity) -> None:
    """Draw a chart beside the figures, where matplotlib is there to do it."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        print(
            "prunekit: no chart is drawn without matplotlib; pip install 'prunekit[compare]'",
            file=sys.stderr,
        )
        return
    from ..sensing.chart import drawn

    (options.out / "sensitivity.svg").write_text(drawn(found))
