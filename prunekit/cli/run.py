"""prunekit run: prune a model, measure it, and save it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import PruneError, TrainingError
from .common import (
    INTERRUPTED,
    add_data,
    add_examples,
    add_output,
    complete_with,
    place,
    print_report,
    progress,
    say_saved,
    warn,
    words,
)

if TYPE_CHECKING:
    from ..recovery.recipes import Recipe

SEARCH_INTERRUPTED = (
    "prunekit: interrupted; no model was saved. Plans that were tried are kept: repeat the "
    "command to go on."
)
EXAMPLES = """
prunekit run --arch swin_micro --criterion dimap --ratio 0.5
prunekit run --arch vit_b --weights vit_b.pth --data imagenet --repair lstsq --out vit_b-half
prunekit run --arch resnet50 --by macs --ratio 0.4 --no-timing --out resnet50-small --quiet
prunekit run --arch vit_b-half --ratio 0.2 --out vit_b-smaller
"""


def add(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_budget(parser)
    _add_latency(parser)
    _add_recovery(parser)
    others = parser.add_argument_group("images, machine and output")
    add = others.add_argument
    add_data(others)
    add("--calibration", type=int, default=512, help="images criterion and repair may see (512)")
    add("--no-timing", dest="timed", action="store_false", help="measure no latency and no memory")
    add("--no-evaluation", dest="evaluate", action="store_false", help="measure no accuracy")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--seed", type=int, default=0)
    add("--out", type=place, help="directory to save the small model in")
    add_output(others)
    add_examples(parser, EXAMPLES)
    parser.set_defaults(run=_run)


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    arch = add(
        "--arch", required=True, help="of the zoo, an alias, any timm name, or a saved model"
    )
    complete_with(arch, _architectures)
    add("--weights", default="auto", help="auto, pretrained, random, or a file")
    add("--img-size", type=pixels, metavar="N", help="of images: one number, or height,width")
    add("--in-chans", type=int, metavar="N", help="channels of images (the architecture's own)")
    add("--num-classes", type=int, metavar="N", help="outputs of the classifier; 0 for none")
    add("--adapter", help="what knows the model (found among those that `prunekit list` shows)")


def _add_budget(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what leaves, and how much").add_argument
    criterion = add(
        "--criterion", default="dimap", help="name, or name:option=value (default: dimap)"
    )
    complete_with(criterion, _criteria)
    add("--ratio", type=float, help="fraction of the whole model to remove (0.5)")
    add("--granularity", default="slice", help="what leaves: slice, weight, or n:m (slice)")
    add(
        "--by",
        default="params",
        help="what it counts: params, macs, slices, latency or memory (params)",
    )
    add("--also", type=shares, default={}, help="at least, too: params=0.3,macs=0.5,memory=0.2")
    add(
        "--scope",
        help="where slices compete: axis, kind or model (the criterion's own); or how axes share "
        "the budget: sensitivity:FILE, or search",
    )
    add("--trials", type=int, metavar="N", help="plans that a search may judge (24)")
    add("--axes", type=words, help="kinds that may shrink: mlp,conv,head,head_dim,width,block")
    add("--include", type=words, default=(), help="globs on axis names, comma-separated")
    add("--exclude", type=words, default=(), help="globs on axis names, comma-separated")
    add("--floor", type=float, default=0.1, help="smallest kept fraction of an axis (0.1)")
    add("--multiple", type=int, default=8, help="kept MLP and width sizes are multiples of it (8)")
    add("--uniform", action="store_true", help="equal sizes in all blocks of a stage")


def _add_latency(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a budget of latency").add_argument
    add("--target-ms", type=float, metavar="MS", help="a latency to come down to; not a ratio")
    add("--latency-batch", type=int, default=1, metavar="N", help="images in a pass by latency (1)")
    add("--latency-dtype", default="float32", help="float32, bfloat16 or float16 (float32)")
    add("--compile", action="store_true", help="time what torch.compile makes of the models")


def _add_recovery(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("rounds and recovery").add_argument
    repair = add(
        "--repair",
        default="none",
        help="adjusts what stays; several with commas: lstsq,reconstruct (see prunekit list; none)",
    )
    complete_with(repair, _repairs)
    add("--steps", type=int, default=1, help="rounds of scoring, cutting and repairing (1)")
    add("--schedule", default="cubic", help="what each round removes: linear or cubic (cubic)")
    add("--finetune", type=int, metavar="N", help="train for N epochs after every round")
    add("--recipe", help="how to train: quick, dimap, isomorphic or a TOML file (quick)")
    add("--distill", action="store_true", help="learn from the dense model too")


def _architectures() -> list[str]:
    from ..inputs import zoo
    from ..inputs.architectures import aliases

    return [*zoo.names(), *aliases()]


def _criteria() -> list[str]:
    from ..criteria import CRITERIA

    return CRITERIA.names()


def _repairs() -> list[str]:
    from ..repairs import REPAIRS

    return REPAIRS.names()


def shares(text: str) -> dict[str, float]:
    """Read "params=0.3,macs=0.5"."""
    found = {}
    for one in words(text):
        word, _, share = one.partition("=")
        if word in found:
            raise argparse.ArgumentTypeError(f"{word!r} is there twice; name each budget once")
        try:
            found[word] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{one!r} names no share; say how much, as in {word or 'params'}=0.3"
            ) from None
    return found


def pixels(text: str) -> tuple[int, int]:
    """Read "224" or "224,160"."""
    sides = [int(side) for side in text.split(",")]
    if len(sides) > 2:
        raise ValueError(text)
    return sides[0], sides[-1]


def _run(options: argparse.Namespace) -> int:
    said = SEARCH_INTERRUPTED if options.scope == "search" else INTERRUPTED
    with progress("load torch", quiet=options.quiet, interrupted=said) as on_step:
        from ..artifact import check_writable
        from ..engine import prune
        from ..request import Options

        options.finetune = _recipe(options)
        if options.out:
            check_writable(options.out)
        asked = {
            name: value for name, value in vars(options).items() if name in Options.__annotations__
        }
        epochs = options.finetune.epochs if options.finetune else 0
        try:
            result = prune(
                options.arch,
                options.criterion,
                options.ratio,
                on_step=on_step,
                on_epoch=lambda epoch: on_step(f"train: epoch {epoch.epoch} of {epochs}"),
                **cast(Options, asked),
            )
        except PruneError as error:
            _keep_rounds(error, options.out)
            raise
        if options.out:
            on_step("save")
            result.save(options.out)
    if options.quiet:
        warn(result.warnings)
        return 0
    print_report(result.report(), options.json)
    if not options.json:
        say_saved(options.out or "nowhere; add --out DIR to keep the model")
    return 0


def _keep_rounds(error: PruneError, out: Path | None) -> None:
    """Save what the rounds before a late failure made, beside where the whole would have gone."""
    if error.finished is None or out is None:
        return
    rounds = len(error.finished.rounds)
    place = out.with_name(f"{out.name}-after-round-{rounds}")
    error.finished.save(place)
    print(f"prunekit: kept what {rounds} rounds made in {place}", file=sys.stderr)


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
