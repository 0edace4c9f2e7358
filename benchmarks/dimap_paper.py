r"""Does DIMAP do what its paper says? The paper's tables and figures, made again.

    python benchmarks/dimap_paper.py [--parts sizes,unstructured,...] [--out DIR]

He and Zhou, Data-independent Module-Aware Pruning for Hierarchical Vision Transformers, ICLR 2024,
arXiv:2404.13648. Every part writes its numbers to OUT/PART.json when it is complete, and the
report, OUT/report.md, is made of all parts that are there; `--parts none` only makes it anew. A
part that was stopped goes on where it was: what took long lies in OUT/cells. Remove that to start
over.

Without `--arch` the accuracies are of the zoo's models on Fashion-MNIST. With ImageNet (a folder
with `train` and `val`, a sub-folder per class in each) and the weights the paper started from,

    python benchmarks/dimap_paper.py --arch swin_t,swin_s,swin_b --weights pretrained --data DIR \
        --workers 16 --precision bf16 --out runs/imagenet

makes Tables 1, 3 and 4 and Figures 5 and 6 of all three, with the paper's recipe of fine-tuning,
`dimap`: 30 epochs for each of DIMAP1, 2 and 3, and for DIMAP3 with all modules as one, which are
twelve runs. Unlike the paper, a tenth of the training images is held out and chooses the epoch that
is kept; `--validation 0.01` holds out fewer. `--weights` also takes files, one for each
architecture, in the names of timm. To try whether it works use `--epochs 1`; `--finetune none`
leaves out what needs training, and `--accumulate` saves memory. Figures 5 and 6 alone need no
images:

    python benchmarks/dimap_paper.py --parts pictures --arch swin_s --weights FILE
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import torch
from paper import claims, finetuned, pictures, sizes, slice_score, to_small, unstructured
from paper.parts import Part, Settings, write
from paper.report import write_report

from prunekit import PruneError
from prunekit.errors import DataError, RegistryError, WeightsError
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build, resolve
from prunekit.inputs.device import find_device
from prunekit.recovery import recipes
from prunekit.registry import unknown

PARTS: tuple[Part, ...] = (
    sizes.PART,
    unstructured.PART,
    finetuned.PART,
    pictures.PART,
    to_small.PART,
    slice_score.PART,
)
OF_ANY_MODEL = ("sizes", "unstructured", "finetuned", "pictures")
NEED_IMAGES = ("unstructured", "finetuned", "small", "slice_score")
RESULTS = Path(__file__).parent / "results" / "dimap_paper"
RUNS = Path("runs") / "dimap_paper"
ZOO_EPOCHS, ZOO_REPEATS = 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for, and write the report; 0 if all went well, 2 if not."""
    try:
        args = parse(arguments)
        settings, parts = settings_of(args), parts_of(args)
        torch.set_num_threads(args.threads)
        check(settings, parts)
        for part in parts:
            print(f"{part.name}: {part.title}", flush=True)
            write(settings, part, part.run(settings))
        write(settings, claims.PART, claims.PART.run(settings))
        write_report(settings, (claims.PART, *PARTS))
    except PruneError as error:
        print(f"dimap_paper: {error}", file=sys.stderr)
        return 2
    return 0


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        print(f"dimap_paper: {message}; see --help.", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="dimap_paper",
    )
    add = parser.add_argument
    names = ", ".join(part.name for part in PARTS)
    add("--parts", type=words, help=f"of {names}, or none; all that go with the models")
    add("--arch", type=words, default=(), help="instead of the zoo: swin_t,swin_s,swin_b, ...")
    add("--weights", type=words, help="pretrained, random, or files: one for all or one for each")
    add("--data", help="a folder of images with train and val, or a named data set")
    add("--data-dir", type=Path, help="where the full Fashion-MNIST lies")
    add("--finetune", metavar="RECIPE", help="dimap, quick, a TOML file, or none")
    add("--epochs", type=int, help="instead of the recipe's")
    add("--batch-size", type=int, help="instead of the recipe's")
    add("--accumulate", type=int, help="parts to cut a batch into, to save memory")
    add("--validation", type=float, help="fraction of training images that choose the epoch")
    add("--precision", choices=recipes.PRECISIONS, help="mixed precision of training")
    add("--repeats", type=int, help="seeds to fine-tune with (1, for the zoo 3)")
    add("--workers", type=int, default=0, help="processes that prepare training images (0)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="of the processor (1)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="where everything goes")
    return parser.parse_args(arguments)


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def settings_of(args: argparse.Namespace) -> Settings:
    """Fill in what was not given: much of it depends on whether the models are the zoo's."""
    models = args.arch or tuple(zoo.names())
    small = not args.arch
    recipe = args.finetune or ("quick" if small else "dimap")
    shortened = small and args.finetune is None and args.epochs is None
    return Settings(
        models=models,
        out=args.out or (RESULTS if small else RUNS),
        weights=args.weights or ("auto" if small else "pretrained",),
        data=args.data,
        data_dir=args.data_dir,
        seed=args.seed,
        device=args.device,
        recipe=None if recipe == "none" else recipe,
        changes={
            "epochs": ZOO_EPOCHS if shortened else args.epochs,
            "batch_size": args.batch_size,
            "accumulate": args.accumulate,
            "precision": args.precision,
            "validation": args.validation,
        },
        repeats=args.repeats or (ZOO_REPEATS if small else 1),
        workers=args.workers,
    )


def parts_of(args: argparse.Namespace) -> list[Part]:
    known = [part.name for part in PARTS]
    wanted = args.parts or (OF_ANY_MODEL if args.arch else known)
    if wanted == ("none",):
        return []
    for name in wanted:
        if name not in known:
            raise RegistryError(unknown("part", name, [*known, "none"]))
    return [part for part in PARTS if part.name in wanted]


def check(settings: Settings, parts: list[Part]) -> None:
    """Refuse what cannot go well before anything slow happens."""
    if not parts:
        return
    if len(settings.weights) not in (1, len(settings.models)):
        raise WeightsError(
            f"There are {len(settings.weights)} --weights for {len(settings.models)} "
            "architectures; give one for all, or one for each."
        )
    needing = [part.name for part in parts if part.name in NEED_IMAGES]
    if needing and settings.data is None and not settings.of_zoo:
        raise DataError(
            f"The part {needing[0]} measures accuracy and there are no images; pass --data, or "
            "choose other --parts."
        )
    if settings.recipe:
        recipes.find(settings.recipe).with_(**settings.changes)
    find_device(settings.device)
    for model in settings.models:
        resolve(model)
    for model in settings.models:
        build(model, settings.of(model)["weights"], settings.seed)


if __name__ == "__main__":
    sys.exit(main())
